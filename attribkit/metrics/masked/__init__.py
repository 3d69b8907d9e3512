"""Metrics on the image multiplied by its map: one forward for each map, whichever of them are asked for."""
