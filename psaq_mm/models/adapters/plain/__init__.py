"""Adapters of transformers with attention among all tokens of an image."""
