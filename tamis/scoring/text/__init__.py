"""What the text of a row tells by itself: its language, its form, and what should not be in it."""
