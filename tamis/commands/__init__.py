"""The commands, a few to a file; `tamis.cli` gathers them."""
