"""What the rows of a benchmark say, and how surely."""

from attribkit.benchmark.statistics.summarise import summarise
from attribkit.benchmark.statistics.summary import (
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
