# The built-in detector's further training: another cosine from where the one before ended.
#   python tools/train.py configs/demo/mask_rcnn_swin_nano.py
#   python tools/train.py configs/demo/mask_rcnn_swin_nano_second.py
#   python tools/train.py configs/demo/mask_rcnn_swin_nano_third.py
# The last figures of each log are in training.json.
_base_ = './mask_rcnn_swin_nano.py'

load_from = 'work_dirs/mask_rcnn_swin_nano/iter_2400.pth'
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, T_max=max_iters - 50, end=max_iters, eta_min=1e-6)
]
randomness = dict(seed=1)
