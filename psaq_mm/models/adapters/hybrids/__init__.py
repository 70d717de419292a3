"""Adapters of backbones that mix convolutions and attention, or attend among channels."""
