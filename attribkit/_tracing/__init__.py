"""Trace forwards to find the layers of a model, the default layer, its attention and its gates."""
