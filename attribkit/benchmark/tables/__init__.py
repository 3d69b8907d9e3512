"""A summary as tables: in the terminal, for papers, as CSV."""

from attribkit.benchmark.tables.csv_files import write_csv
from attribkit.benchmark.tables.panels import agreement_tables, ranking_tables
from attribkit.benchmark.tables.rendering import latex, tables

__all__ = ["agreement_tables", "latex", "ranking_tables", "tables", "write_csv"]
