"""Analysis of a model: the sensitivity of its tensors, and recipes with mixed precision."""
