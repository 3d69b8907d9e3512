"""Attention weights, and where on the image their tokens are."""
