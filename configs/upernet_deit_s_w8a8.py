# mmseg's UPerNet with DeiT-S (ADE20K mIoU 42.87): python tools/dfq.py configs/upernet_deit_s_w8a8.py
_base_ = ['mmseg::vit/vit_deit-s16_upernet_8xb2-160k_ade20k-512x512.py', './_base_/dfq_ade20k.py']

load_from = 'checkpoints/upernet_deit-s16_512x512_160k_ade20k_20210621_160903-5110d916.pth'
checkpoint_url = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/vit/upernet_deit-s16_512x512_160k_ade20k/upernet_deit-s16_512x512_160k_ade20k_20210621_160903-5110d916.pth'  # noqa
