"""The command line."""

from attribkit.cli import _benchmark, _commands, _explain, _listings, _plugin_commands, _report  # noqa: F401  # they register the commands
from attribkit.cli._app import app

__all__ = ["app"]
