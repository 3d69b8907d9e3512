"""Statistics of a benchmark's rows: means, intervals, comparisons, rankings and sanity checks."""

from attribkit.benchmark._statistics.summarise import summarise
from attribkit.benchmark._statistics.summary import (
    Agreement,
    Estimate,
    MethodComparison,
    MethodRanking,
    SanityCheck,
    Summary,
    SummaryScore,
)

__all__ = [
    "Agreement",
    "Estimate",
    "MethodComparison",
    "MethodRanking",
    "SanityCheck",
    "Summary",
    "SummaryScore",
    "summarise",
]
