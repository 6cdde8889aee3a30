"""Contamination: rows that hold the items of a benchmark, word for word or in other words."""
