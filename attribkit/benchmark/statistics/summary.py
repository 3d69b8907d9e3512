"""[benchmark/statistics/summary] What the statistics give: plain records, for tables, figures and reports.
[benchmark/statistics/roles] Which maps are methods, and which are there to compare with.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from attribkit.core.errors import UnreadableFile

Statistic = Literal["mean", "class_mean", "normalised"]
Role = Literal["method", "control", "truth"]
Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]  # JSON has no NaN


@dataclass(frozen=True)
class Estimate:
    """A statistic over images with its bootstrap interval; NaN where not defined."""

    value: Number
    low: Number
    high: Number
    interval: Literal["BCa", "percentile", "none"]  # how low and high were found
    samples: int  # that the value is over
    groups: int  # images that those are of, which the bootstrap draws
    undefined: int = 0  # samples whose value is NaN or infinite, left out
    missing: int = 0  # samples that others have a row of, and this method has not


@dataclass(frozen=True)
class SummaryScore:
    """One cell of a table: what a metric says of a method's maps on a model."""

    model: str
    subset: str  # "all", or a name such as "difficult"
    kind: str
    metric: str
    higher_is_better: bool | None
    statistic: Statistic
    method: str
    inverted: bool
    role: Role
    estimate: Estimate
    best: bool  # no interval of another method or control overlaps
    notes: tuple[str, ...] = ()  # of this cell
    flags: tuple[str, ...] = ()  # of the method on this model: sanity checks that it fails


@dataclass(frozen=True)
class MethodComparison:
    """Two methods on the same images."""

    model: str
    subset: str
    metric: str
    first: str
    second: str
    difference: Estimate  # first minus second, as the metric counts
    wins: int  # images on which first is better (larger, where neither is better)
    ties: int
    losses: int
    p: Number  # Wilcoxon signed-rank, two-sided; NaN with too few images
    p_holm: Number  # corrected over the pairs of this model, subset and metric

    @property
    def superiority(self) -> float:
        """How probable it is that first is better on an image, ties half."""
        images = self.wins + self.ties + self.losses
        return (self.wins + self.ties / 2) / images if images else float("nan")


@dataclass(frozen=True)
class MethodRanking:
    """Methods in the order of their mean ranks over images, and which of them cannot be told apart."""

    model: str
    subset: str
    metric: str
    methods: tuple[str, ...]  # best first
    ranks: tuple[Number, ...]  # means over images, 1 the best
    images: int  # on which all of them are defined
    chi_squared: Number  # Friedman
    p: Number  # of Iman and Davenport's F
    concordance: Number  # Kendall's W: 1 where all images rank alike, 0 where none agree
    critical_difference: Number  # Nemenyi
    cliques: tuple[tuple[str, ...], ...]  # not told apart


@dataclass(frozen=True)
class Agreement:
    """Whether two metrics rank methods alike: correlations over methods, both counted so that more is better."""

    model: str
    subset: str
    first: str
    second: str
    methods: int
    kendall: Number  # tau-b of the methods' mean ranks
    spearman: Number
    kendall_per_image: Estimate  # tau-b on each image, averaged
    spearman_per_image: Estimate


@dataclass(frozen=True)
class SanityCheck:
    """Whether a method's maps change where they should."""

    model: str
    method: str
    metric: str
    estimate: Estimate
    floor: Number  # mean of what unrelated maps get
    limit: Number  # halfway between unchanged, 1, and the floor, at most the root of a half
    failed: bool


@dataclass(frozen=True)
class Summary:
    """All that the rows of a benchmark say, and how it was found."""

    confidence: float
    resamples: int
    seed: int
    oracle: str | None
    method_options: dict[str, str]  # label to repr
    metric_options: dict[str, str]
    scores: tuple[SummaryScore, ...]
    comparisons: tuple[MethodComparison, ...]
    rankings: tuple[MethodRanking, ...]
    agreements: tuple[Agreement, ...]
    sanity_checks: tuple[SanityCheck, ...]
    notes: tuple[str, ...]  # what could not be said, and why

    def to_json(self) -> str:
        """The summary as text; NaN is null."""
        return TypeAdapter(Summary).dump_json(self, indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        """The inverse of `to_json`; UnreadableFile if text is not that."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the text"
            raise UnreadableFile(f"This is no summary: {where}: {first['msg']}. Write it with to_json().") from None

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Summary":
        """Read what `save` wrote; UnreadableFile if it is missing or broken."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read: {error.strerror}. Write it with save().") from error


RANDOM = "random"
TRUTH = "truth"  # the mask as a map
CONTROLS = (RANDOM, "centre", "edges", "constant")


def role(method: str) -> Role:
    """What the maps of this name are there for."""
    return "truth" if method == TRUTH else "control" if method in CONTROLS else "method"


def oracle_of(kind: str, oracle: str | None) -> str | None:
    """The maps that a metric of this kind cannot expect to be beaten; None where there are no such."""
    return {"localization": TRUTH, "faithfulness": oracle}.get(kind)
