"""Which maps are methods, and which are there to compare with."""

from attribkit.benchmark.statistics.summary import Role

RANDOM = "random"
TRUTH = "truth"  # the mask as a map
CONTROLS = (RANDOM, "centre", "edges", "constant")


def role(method: str) -> Role:
    """What the maps of this name are there for."""
    return "truth" if method == TRUTH else "control" if method in CONTROLS else "method"


def oracle_of(kind: str, oracle: str | None) -> str | None:
    """The maps that a metric of this kind cannot expect to be beaten; None where there are no such."""
    return {"localization": TRUTH, "faithfulness": oracle}.get(kind)
