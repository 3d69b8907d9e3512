"""A summary as CSV files, a line for each record."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from attribkit.benchmark.identity import write_text_whole
from attribkit.benchmark.statistics.summary import (
    Agreement,
    MethodComparison,
    MethodRanking,
    SanityCheck,
    Summary,
    SummaryScore,
)

# What spreadsheets take for the beginning of a formula, in cells of text; numbers are no text.
FORMULA = "^([ '\t\r\n]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n])"  # the wide forms too

CsvRecord = Mapping[str, Any]

_PER_RANKING = ("methods", "ranks", "cliques")


def write_csv(summary: Summary, folder: str | Path) -> list[Path]:
    """Write scores.csv, comparisons.csv, rankings.csv, agreements.csv and sanity_checks.csv; NaN is an empty cell."""
    folder = Path(folder)
    written = []
    for name, (columns, records) in _files(summary).items():
        path = folder / f"{name}.csv"
        write_text_whole(path, csv_text(columns, records))
        written.append(path)
    return written


def spreadsheet_text(text: str) -> str:
    """A text that a spreadsheet would run as a formula, behind an apostrophe; any other as it is.

    Whoever reads the file takes one apostrophe away where such a text follows it.
    """
    return f"'{text}" if re.match(FORMULA, text) else text


def csv_text(columns: Iterable[str], records: Iterable[CsvRecord]) -> str:
    """Records of one kind as CSV; a nested record's fields are named after both, names are joined by "; "."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns))
    writer.writeheader()
    writer.writerows(dict(_flat(record)) for record in records)
    return text.getvalue()


def _files(summary: Summary) -> dict[str, tuple[list[str], Iterable[CsvRecord]]]:
    """Of each file the columns and the records."""
    per_method = [name for name in _columns(MethodRanking) if name not in _PER_RANKING]
    return {
        "scores": (_columns(SummaryScore), map(asdict, summary.scores)),
        "comparisons": ([*_columns(MethodComparison), "superiority"], map(_comparison, summary.comparisons)),
        "rankings": ([*per_method, "method", "rank", "cliques"], _rankings(summary)),
        "agreements": (_columns(Agreement), map(asdict, summary.agreements)),
        "sanity_checks": (_columns(SanityCheck), map(asdict, summary.sanity_checks)),
    }


def _columns(kind: type, prefix: str = "") -> list[str]:
    """The columns of a kind of record, as `_flat` names them."""
    found = []
    for field in fields(kind):
        nested = isinstance(field.type, type) and is_dataclass(field.type)
        name = prefix + field.name
        found += _columns(field.type, _prefix(field.name)) if nested else [name]  # type: ignore[arg-type]
    return found


def _prefix(field: str) -> str:
    return "" if field == "estimate" else f"{field}_"


def _comparison(each: MethodComparison) -> CsvRecord:
    return {**asdict(each), "superiority": each.superiority}


def _rankings(summary: Summary) -> Iterator[CsvRecord]:
    """A record for each method of each ranking."""
    for ranking in summary.rankings:
        shared = {key: value for key, value in asdict(ranking).items() if key not in _PER_RANKING}
        for method, rank in zip(ranking.methods, ranking.ranks, strict=True):
            cliques = [k for k, clique in enumerate(ranking.cliques) if method in clique]
            yield {**shared, "method": method, "rank": rank, "cliques": tuple(cliques)}


def _flat(record: CsvRecord, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, _prefix(key))
        elif isinstance(value, tuple | list):
            yield prefix + key, spreadsheet_text("; ".join(map(str, value)))
        elif isinstance(value, str):
            yield prefix + key, spreadsheet_text(value)
        else:
            yield prefix + key, "" if value is None or value != value else value
