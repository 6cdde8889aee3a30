"""Scores made of other columns: places, distances, scores without confounders, sums."""
