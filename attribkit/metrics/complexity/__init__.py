"""Metrics that ask the map alone."""
