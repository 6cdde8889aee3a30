"""The parts of a report, each read from the store's views."""
