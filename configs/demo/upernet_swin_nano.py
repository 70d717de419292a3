# The built-in segmentor with a small Swin: trained from scratch on the demo scenes with mmseg's own training.
# python tools/train.py configs/demo/upernet_swin_nano.py
_base_ = '../_base_/upernet_nano.py'

model = dict(
    backbone=dict(
        embed_dims=32,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
        drop_path_rate=0.0),
    decode_head=dict(in_channels=[32, 64, 128, 256]))
