# mmseg's UPerNet with Swin-S (ADE20K mIoU 47.72): python tools/dfq.py configs/upernet_swin_s_w8a8.py
_base_ = ['mmseg::swin/swin-small-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py', './_base_/dfq_ade20k.py']

load_from = 'checkpoints/upernet_swin_small_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K_20210526_192015-ee2fff1c.pth'
checkpoint_url = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/swin/upernet_swin_small_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K/upernet_swin_small_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K_20210526_192015-ee2fff1c.pth'  # noqa
