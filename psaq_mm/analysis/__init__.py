"""What quantization does to a network: the sensitivity of its tensors, and bit widths for a budget."""
