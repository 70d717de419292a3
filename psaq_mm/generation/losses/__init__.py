"""The terms of the image loss: patch-similarity entropy, image prior, discrepancy."""
