"""The demonstration: data with planted defects, a small language model, and the whole chain."""
