"""CSV files of a summary, with a line for each record."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from attribkit.benchmark._identity import write_text_atomically
from attribkit.benchmark._statistics.summary import (
    Agreement,
    MethodComparison,
    MethodRanking,
    SanityCheck,
    Summary,
    SummaryScore,
)

# Text that a spreadsheet interprets as a formula. Only columns of text are checked, not numbers.
FORMULA = "^([ '\t\r\n]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n])"  # includes full-width forms

CsvRecord = Mapping[str, Any]

_RANKING_LISTS = ("methods", "ranks", "cliques")


def write_csv(summary: Summary, folder: str | Path) -> list[Path]:
    """Write scores.csv, comparisons.csv, rankings.csv, agreements.csv and sanity_checks.csv; NaN is an empty cell.

    Args:
        summary: The summary of a benchmark.
        folder: Folder for the files; it is created if needed.

    Returns:
        The paths of the files.

    Raises:
        UnreadableFile: If a file cannot be written.
    """
    folder = Path(folder)
    written = []
    for name, (columns, records) in _files(summary).items():
        path = folder / f"{name}.csv"
        write_text_atomically(path, csv_text(columns, records))
        written.append(path)
    return written


def spreadsheet_text(text: str) -> str:
    """Prepend an apostrophe to text that a spreadsheet would interpret as a formula.

    To recover the original text, remove one apostrophe where such text follows it.
    """
    return f"'{text}" if re.match(FORMULA, text) else text


def csv_text(columns: Iterable[str], records: Iterable[CsvRecord]) -> str:
    """Format records as CSV: nested records become columns with a prefix, lists of names are joined by "; "."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns))
    writer.writeheader()
    writer.writerows(dict(_flatten(record)) for record in records)
    return text.getvalue()


def _files(summary: Summary) -> dict[str, tuple[list[str], Iterable[CsvRecord]]]:
    """Return the columns and the records of each file."""
    shared = [name for name in _columns(MethodRanking) if name not in _RANKING_LISTS]
    return {
        "scores": (_columns(SummaryScore), map(asdict, summary.scores)),
        "comparisons": ([*_columns(MethodComparison), "superiority"], map(_comparison_record, summary.comparisons)),
        "rankings": ([*shared, "method", "rank", "cliques"], _ranking_records(summary)),
        "agreements": (_columns(Agreement), map(asdict, summary.agreements)),
        "sanity_checks": (_columns(SanityCheck), map(asdict, summary.sanity_checks)),
    }


def _columns(record_type: type, prefix: str = "") -> list[str]:
    """Return the columns of a type of record, with the names that `_flatten` gives them."""
    columns = []
    for field in fields(record_type):
        nested = isinstance(field.type, type) and is_dataclass(field.type)
        name = prefix + field.name
        columns += _columns(field.type, _prefix(field.name)) if nested else [name]  # type: ignore[arg-type]
    return columns


def _prefix(field: str) -> str:
    return "" if field == "estimate" else f"{field}_"


def _comparison_record(comparison: MethodComparison) -> CsvRecord:
    return {**asdict(comparison), "superiority": comparison.superiority}


def _ranking_records(summary: Summary) -> Iterator[CsvRecord]:
    """Yield a record for each method of each ranking."""
    for ranking in summary.rankings:
        shared = {key: value for key, value in asdict(ranking).items() if key not in _RANKING_LISTS}
        for method, rank in zip(ranking.methods, ranking.ranks, strict=True):
            cliques = [k for k, clique in enumerate(ranking.cliques) if method in clique]
            yield {**shared, "method": method, "rank": rank, "cliques": tuple(cliques)}


def _flatten(record: CsvRecord, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, _prefix(key))
        elif isinstance(value, tuple | list):
            yield prefix + key, spreadsheet_text("; ".join(map(str, value)))
        elif isinstance(value, str):
            yield prefix + key, spreadsheet_text(value)
        else:
            yield prefix + key, "" if value is None or value != value else value
