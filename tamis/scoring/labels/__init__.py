"""Where labels come from: each source is a scorer of its own, and which one was used is recorded.

All give `labels`, a list of names a row, and one row a label with its name and an embedding: what
`mig` needs, and what a quota can be made of.
"""
