"""Metrics that ask the method again about images with a little noise."""
