"""Transforms of the operands of a product before they are quantized, which leave the product as it is."""
