"""What a benchmark leaves for readers: its summary, as JSON and as tables."""

from dataclasses import replace

import pyarrow.compute as pc
from pyarrow import csv

from attribkit.benchmark.run import Results
from attribkit.benchmark.statistics import Summary, summarise
from attribkit.benchmark.storage.files import write_text_whole, write_whole
from attribkit.benchmark.tables.csv_files import write_csv
from attribkit.benchmark.tables.latex import latex


def write_summary(results: Results) -> Summary:
    """Summarise the rows, and write into the output folder what can be read without attribkit.

    results.csv holds the rows, tables/ what they say, summary.json the same for figures and reports.
    """
    configuration, folder = results.configuration, results.store.folder
    summary = summarise(results.rows, seed=configuration.seed, oracle=configuration.oracle or None)
    summary = replace(summary, notes=(*summary.notes, *results.notes))
    joined = pc.binary_join(results.rows["subsets"], "; ")
    rows = results.rows.drop_columns(["subsets", "details"]).append_column("subsets", joined)
    write_whole(folder / "results.csv", lambda path: csv.write_csv(rows, path))
    write_text_whole(folder / "summary.json", summary.to_json())
    write_csv(summary, folder / "tables")
    write_text_whole(folder / "tables" / "tables.tex", latex(summary))
    return summary
