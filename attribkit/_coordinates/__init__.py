"""Track the image coordinates of tensor elements through a forward pass, to find the grids of layers."""
