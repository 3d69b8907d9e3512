"""The command line."""

from attribkit.cli import benchmark, commands, explain, listings
from attribkit.cli.app import app

__all__ = ["app", "benchmark", "commands", "explain", "listings"]
