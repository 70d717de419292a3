"""Every config that mmdet, mmseg and mmpretrain ship, run on random weights: ``python -m dev.zoo``."""
