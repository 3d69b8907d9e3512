"""How faithful attributions are, over many images: what is run, what is kept, and what the numbers say.

Needs `pip install attribkit[bench]`.
"""

from importlib.util import find_spec

from attribkit.core.errors import AttribkitError

if _missing := [package for package in ("pyarrow", "pydantic") if find_spec(package) is None]:
    raise AttribkitError(f"Benchmarks need {' and '.join(_missing)}: pip install 'attribkit[bench]'.")

from attribkit.benchmark.run import Results, benchmark, write_summary
from attribkit.benchmark.settings.configuration import Configuration, add_line_numbers, example, read_configuration
from attribkit.benchmark.statistics import Summary, summarise
from attribkit.benchmark.store import Failure

__all__ = [
    "Configuration",
    "Failure",
    "Results",
    "Summary",
    "add_line_numbers",
    "benchmark",
    "example",
    "read_configuration",
    "summarise",
    "write_summary",
]
