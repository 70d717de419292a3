"""Adapters of transformers with attention among the tokens of a window."""
