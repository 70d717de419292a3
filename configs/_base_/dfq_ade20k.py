# Data-free quantization of a full-size segmentor on a GPU: as a detector's, with images as large as the crops that it
# was trained on.
_base_ = './dfq_coco.py'

dfq = dict(generate=dict(image_size=(512, 512)))
