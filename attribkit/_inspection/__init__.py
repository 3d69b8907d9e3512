"""Inspect a network: its filters, feature maps and receptive fields."""
