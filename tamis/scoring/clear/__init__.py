"""CLEAR: how much a language model believes the answers it is given, and the rule to keep them."""
