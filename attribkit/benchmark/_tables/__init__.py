"""Tables of a summary: for the terminal, for papers and as CSV."""

from attribkit.benchmark._tables.csv_files import write_csv
from attribkit.benchmark._tables.latex import latex
from attribkit.benchmark._tables.panels import agreement_tables, ranking_tables
from attribkit.benchmark._tables.rendering import tables

__all__ = ["agreement_tables", "latex", "ranking_tables", "tables", "write_csv"]
