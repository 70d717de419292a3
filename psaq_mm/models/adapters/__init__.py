"""One module per attention family: how it is tapped and its quantized form."""
