"""``python -m attribkit`` is ``attribkit``."""

from attribkit.cli import app

app(prog_name="attribkit")
