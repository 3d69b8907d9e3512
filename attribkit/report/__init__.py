"""Reports as a single HTML file: maps of images, and the results of benchmarks.

Needs `pip install attribkit[report]`; reports about benchmarks also need `attribkit[bench]`.
"""

from importlib.util import find_spec

from attribkit._core.errors import AttribkitError

if find_spec("jinja2") is None:
    raise AttribkitError("Reports need jinja2: pip install 'attribkit[report]'.")

from attribkit.report._page import write_report

__all__ = ["write_report"]
