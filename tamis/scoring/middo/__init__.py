"""MIDDO: signs that a row is too hard, apart from all others, or poor, as a model sees it."""
