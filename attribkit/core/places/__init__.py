"""Where on the images the elements of a model's tensors come from."""
