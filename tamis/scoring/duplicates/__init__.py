"""Duplicates: rows that say the same, by their text, their words or their meaning.

Each scorer puts like rows into groups and names one of each its representative; none drops a row.
"""
