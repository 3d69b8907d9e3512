"""Benchmarks: configuration, units of work, store and executors; needs `pip install attribkit[bench]`."""

from importlib.util import find_spec

from attribkit.core.errors import AttribkitError

if missing := [each for each in ("pyarrow", "pydantic") if find_spec(each) is None]:
    raise AttribkitError(f"Benchmarks need {' and '.join(missing)}: pip install 'attribkit[bench]'.")

from attribkit.benchmark.configuration import Configuration
from attribkit.benchmark.reading import example, read_configuration
from attribkit.benchmark.run import Results, benchmark
from attribkit.benchmark.store import Failure

__all__ = ["Configuration", "Failure", "Results", "benchmark", "example", "read_configuration"]
