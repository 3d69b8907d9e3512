"""A summary as CSV files, a line for each record."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attribkit.benchmark.files import write_text_whole
from attribkit.benchmark.statistics.summary import Comparison, Ranking, Summary

Record = Mapping[str, Any]


def write_csv(summary: Summary, folder: str | Path) -> list[Path]:
    """Write scores.csv, comparisons.csv, rankings.csv, agreements.csv and sanity_checks.csv; NaN is an empty cell."""
    folder = Path(folder)
    written = []
    for name, records in _files(summary).items():
        path = folder / f"{name}.csv"
        write_text_whole(path, csv_text(records))
        written.append(path)
    return written


def csv_text(records: Iterable[Record]) -> str:
    """Records of one kind as CSV; a nested record's fields are named after both, names are joined by "; "."""
    flat = [dict(_flat(record)) for record in records]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, flat[0] if flat else [])
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _files(summary: Summary) -> dict[str, Iterable[Record]]:
    return {
        "scores": map(asdict, summary.scores),
        "comparisons": map(_comparison, summary.comparisons),
        "rankings": (record for ranking in summary.rankings for record in _ranking(ranking)),
        "agreements": map(asdict, summary.agreements),
        "sanity_checks": map(asdict, summary.sanity_checks),
    }


def _comparison(each: Comparison) -> Record:
    return {**asdict(each), "superiority": each.superiority}


def _ranking(ranking: Ranking) -> Iterator[Record]:
    """A record for each method."""
    shared = {key: value for key, value in asdict(ranking).items() if key not in ("methods", "ranks", "cliques")}
    for method, rank in zip(ranking.methods, ranking.ranks, strict=True):
        cliques = [k for k, clique in enumerate(ranking.cliques) if method in clique]
        yield {**shared, "method": method, "rank": rank, "cliques": tuple(cliques)}


def _flat(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, "" if key == "estimate" else f"{key}_")
        elif isinstance(value, tuple | list):
            yield prefix + key, "; ".join(map(str, value))
        else:
            yield prefix + key, "" if value is None or value != value else value
