"""Benchmarks of attribution methods over many images: configuration, execution, statistics and tables.

Needs `pip install attribkit[bench]`.
"""

from importlib.util import find_spec

from attribkit._core.errors import AttribkitError, join_names

if _missing := [package for package in ("filelock", "pyarrow", "pydantic") if find_spec(package) is None]:
    raise AttribkitError(f"Benchmarks need {join_names(_missing)}: pip install 'attribkit[bench]'.")

from attribkit.benchmark._drawing import write_figures
from attribkit.benchmark._run import Results, benchmark, write_summary
from attribkit.benchmark._settings.configuration import Configuration, example, read_configuration
from attribkit.benchmark._statistics import Summary, summarise
from attribkit.benchmark._store import Failure
from attribkit.benchmark._tables import agreement_tables, latex, ranking_tables, tables, write_csv

__all__ = [
    "Configuration",
    "Failure",
    "Results",
    "Summary",
    "agreement_tables",
    "benchmark",
    "example",
    "latex",
    "ranking_tables",
    "read_configuration",
    "summarise",
    "tables",
    "write_csv",
    "write_figures",
    "write_summary",
]
