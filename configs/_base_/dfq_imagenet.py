# Data-free quantization of an ImageNet classifier, in sizes that two CPU cores do in minutes and a GPU in seconds.
_base_ = './dfq.py'

custom_imports = dict(imports=['psaq_mm'], allow_failed_imports=False)
dfq = dict(
    # A plain transformer ends in one map or token, which says little about its blocks.
    distill=dict(generator_images=32, student_steps=100, batch_size=32, distill_on='blocks'))
