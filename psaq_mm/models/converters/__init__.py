"""Converters of checkpoints that other code bases wrote."""
