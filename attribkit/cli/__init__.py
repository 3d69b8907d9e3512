"""The command line; each command in a file of its own."""

from attribkit.cli import benchmark, demo, explain, inspect, listings, visualize
from attribkit.cli.app import app

__all__ = ["app", "benchmark", "demo", "explain", "inspect", "listings", "visualize"]
