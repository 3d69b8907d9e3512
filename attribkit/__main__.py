"""Run the command line interface as ``python -m attribkit``."""

from attribkit.cli import app

if __name__ == "__main__":
    app(prog_name="attribkit")
