"""What a benchmark leaves for readers: its summary, as JSON and as tables."""

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from attribkit.benchmark.run import Results
from attribkit.benchmark.statistics import Summary, summarise
from attribkit.benchmark.storage.files import write_text_whole, write_whole
from attribkit.benchmark.tables.csv_files import FORMULA, write_csv
from attribkit.benchmark.tables.latex import latex


def write_summary(results: Results) -> Summary:
    """Summarise the rows, and write into the output folder what can be read without attribkit.

    results.csv holds the rows, tables/ what they say, summary.json the same for figures and reports.
    """
    configuration, folder = results.configuration, results.store.folder
    summary = summarise(results.rows, seed=configuration.seed, oracle=configuration.oracle or None)
    joined = pc.binary_join(results.rows["subsets"], "; ")
    rows = _for_spreadsheets(results.rows.drop_columns(["subsets", "details"]).append_column("subsets", joined))
    write_whole(folder / "results.csv", lambda path: csv.write_csv(rows, path))
    write_text_whole(folder / "summary.json", summary.to_json())
    write_csv(summary, folder / "tables")
    write_text_whole(folder / "tables" / "tables.tex", latex(summary))
    return summary


def _for_spreadsheets(rows: pa.Table) -> pa.Table:
    """The rows with texts as `spreadsheet_text` has them."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            text = rows[place]
            marked = pc.binary_join_element_wise("'", text, "")
            rows = rows.set_column(place, field, pc.if_else(pc.match_substring_regex(text, FORMULA), marked, text))
    return rows
