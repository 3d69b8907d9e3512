"""Metrics that ask the method again about another model, or another class."""
