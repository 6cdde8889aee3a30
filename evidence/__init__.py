"""What tamis is worth, measured: a script prepares its data, runs a recipe and prints a table."""
