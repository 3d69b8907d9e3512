"""Where the cells of a tensor lie on the image: coordinates followed through a forward pass."""
