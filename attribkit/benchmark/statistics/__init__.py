"""What the rows of a benchmark say, and how surely."""

from attribkit.benchmark.statistics.summarise import summarise
from attribkit.benchmark.statistics.summary import (
    Agreement,
    Comparison,
    Estimate,
    Ranking,
    SanityCheck,
    Score,
    Summary,
)

__all__ = ["Agreement", "Comparison", "Estimate", "Ranking", "SanityCheck", "Score", "Summary", "summarise"]
