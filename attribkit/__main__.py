"""``python -m attribkit`` is ``attribkit``."""

from attribkit.cli import app

if __name__ == "__main__":
    app(prog_name="attribkit")
