"""The terms of the image loss: patch-similarity entropy, image prior and discrepancy, one equation per file."""
