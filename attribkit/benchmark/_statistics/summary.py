"""Records of a benchmark's summary, which tables, figures and reports read, and the roles of methods in it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from attribkit._core.errors import UnreadableFile
from attribkit._display.representations import repr_with_notes, short_value

RANDOM = "random"
TRUTH = "truth"  # the ground-truth mask as a map
CONTROLS = (RANDOM, "centre", "edges", "constant")

Statistic = Literal["mean", "class_mean", "normalised"]
Role = Literal["method", "control", "truth"]
Number = Annotated[
    float, BeforeValidator(lambda value: float("nan") if value is None else value)
]  # NaN is null in JSON


def role(method: str) -> Role:
    """Return the role of the maps with this label: a method, a control or the ground truth."""
    return "truth" if method == TRUTH else "control" if method in CONTROLS else "method"


def oracle_for(kind: str, oracle: str | None) -> str | None:
    """Return the label of the maps that score 1 for this kind of metric after normalisation, or None.

    Localization is normalised by the ground-truth mask, faithfulness by the configured oracle.
    """
    return {"localization": TRUTH, "faithfulness": oracle}.get(kind)


@dataclass(frozen=True)
class Estimate:
    """A statistic over images with its bootstrap interval; NaN where it is not defined.

    Args:
        value: The statistic.
        low: Lower end of the interval.
        high: Upper end of the interval.
        interval: How the interval was computed; "none" where the ends are NaN.
        samples: Number of samples that the value is computed from.
        groups: Number of images with at least one such sample. The bootstrap resamples images.
        undefined: Number of samples whose value is NaN or infinite; they are excluded.
        missing: Number of samples that other methods have a row for and this method does not.
    """

    value: Number
    low: Number
    high: Number
    interval: Literal["BCa", "percentile", "none"]
    samples: int
    groups: int
    undefined: int = 0
    missing: int = 0


@dataclass(frozen=True)
class SummaryScore:
    """A table cell: the score of a method's maps on one model by one metric.

    Args:
        model: Label of the model.
        subset: "all", or the name of a subset of the images, such as "difficult".
        kind: Kind of the metric, such as "faithfulness".
        metric: Label of the metric.
        higher_is_better: Direction of the metric; None if it does not have one.
        statistic: Mean over samples, mean over class means, or normalised mean.
        method: Label of the method.
        inverted: Whether the maps were negated.
        role: Whether the maps are those of a method, a control or the ground truth.
        estimate: The score with its interval.
        best: Whether the interval does not overlap with that of any other method or control.
        notes: Remarks on this score.
        flags: Sanity checks that the method fails on this model.
    """

    model: str
    subset: str
    kind: str
    metric: str
    higher_is_better: bool | None
    statistic: Statistic
    method: str
    inverted: bool
    role: Role
    estimate: Estimate
    best: bool
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodComparison:
    """A paired comparison of two methods on the same images.

    Args:
        model: Label of the model.
        subset: "all", or the name of a subset of the images.
        metric: Label of the metric.
        first: Label of the first method.
        second: Label of the second method.
        difference: Mean of first minus second, in the units of the metric.
        wins: Number of images on which first is better (larger, for a metric without a direction).
        ties: Number of images on which both are equal.
        losses: Number of images on which second is better.
        p: Two-sided p-value of Wilcoxon's signed-rank test; NaN with too few images.
        p_holm: p after Holm's correction over the pairs of this model, subset and metric.
    """

    model: str
    subset: str
    metric: str
    first: str
    second: str
    difference: Estimate
    wins: int
    ties: int
    losses: int
    p: Number
    p_holm: Number

    @property
    def superiority(self) -> float:
        """Fraction of the images on which first is better; a tie counts half."""
        images = self.wins + self.ties + self.losses
        return (self.wins + self.ties / 2) / images if images else float("nan")


@dataclass(frozen=True)
class MethodRanking:
    """Methods in the order of their mean ranks over images, with the groups that the test does not separate.

    Args:
        model: Label of the model.
        subset: "all", or the name of a subset of the images.
        metric: Label of the metric.
        methods: Labels of the methods, best first.
        ranks: Mean rank of each method over the images; 1 is the best.
        images: Number of images on which all methods are defined.
        chi_squared: Friedman's chi-squared statistic.
        p: p-value of Iman and Davenport's F statistic.
        concordance: Kendall's W: 1 where all images rank the methods alike, 0 where the ranks are unrelated.
        critical_difference: Nemenyi's critical difference of two mean ranks.
        cliques: Groups of methods that do not differ significantly.
    """

    model: str
    subset: str
    metric: str
    methods: tuple[str, ...]
    ranks: tuple[Number, ...]
    images: int
    chi_squared: Number
    p: Number
    concordance: Number
    critical_difference: Number
    cliques: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Agreement:
    """Rank correlations over methods of two metrics, both signed such that higher is better.

    Args:
        model: Label of the model.
        subset: "all", or the name of a subset of the images.
        first: Label of the first metric.
        second: Label of the second metric.
        methods: Number of methods that both metrics score.
        kendall: Kendall's tau-b of the methods' mean ranks.
        spearman: Spearman's correlation of the methods' mean ranks.
        kendall_per_image: Kendall's tau-b on each image, averaged.
        spearman_per_image: Spearman's correlation on each image, averaged.
    """

    model: str
    subset: str
    first: str
    second: str
    methods: int
    kendall: Number
    spearman: Number
    kendall_per_image: Estimate
    spearman_per_image: Estimate


@dataclass(frozen=True)
class SanityCheck:
    """A check that a method's maps change when they should, such as with randomised weights.

    Args:
        model: Label of the model.
        method: Label of the method.
        metric: Label of the metric, a similarity of the maps before and after the change.
        estimate: The mean similarity with its interval.
        floor: Mean similarity of unrelated maps.
        limit: Largest absolute mean that passes: halfway between the floor and 1, at most the square root of 0.5.
        failed: Whether the absolute mean exceeds the limit.
    """

    model: str
    method: str
    metric: str
    estimate: Estimate
    floor: Number
    limit: Number
    failed: bool


@dataclass(frozen=True)
class Summary:
    """All statistics of a benchmark's rows, and the settings that they were computed with.

    Args:
        confidence: Confidence level of the intervals and tests.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        oracle: Label of the method that scores 1 in normalised faithfulness; None if there is not one.
        method_options: Options of each method, by label.
        metric_options: Options of each metric, by label.
        scores: A score for each method, metric, statistic, subset and model.
        comparisons: Paired comparisons of methods.
        rankings: Rankings of the methods by each metric.
        agreements: Agreement of each pair of metrics.
        sanity_checks: Results of the metrics that check methods.
        notes: Statistics that could not be computed, with the reason.
    """

    confidence: float
    resamples: int
    seed: int
    oracle: str | None
    method_options: dict[str, str]
    metric_options: dict[str, str]
    scores: tuple[SummaryScore, ...]
    comparisons: tuple[MethodComparison, ...]
    rankings: tuple[MethodRanking, ...]
    agreements: tuple[Agreement, ...]
    sanity_checks: tuple[SanityCheck, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        methods, metrics = map(short_value, (list(self.method_options), list(self.metric_options)))
        text = (
            f"Summary(methods {methods}, metrics {metrics}: {len(self.scores)} scores, {len(self.comparisons)} "
            f"comparisons, {len(self.rankings)} rankings, {len(self.sanity_checks)} sanity checks, confidence "
            f"{self.confidence:g}, {self.resamples} resamples)"
        )
        return repr_with_notes(text, self.notes)

    def to_json(self) -> str:
        """Return the summary as JSON text; NaN becomes null."""
        return TypeAdapter(Summary).dump_json(self, indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        """Read the text that `to_json` returned.

        Args:
            text: JSON text.

        Returns:
            The summary.

        Raises:
            UnreadableFile: If the text is not a summary.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the text"
            raise UnreadableFile(
                f"The text is not a summary; {where}: {first['msg']}. Write summaries with Summary.to_json()."
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the JSON text to a file.

        Args:
            path: Path of the file.
        """
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Summary":
        """Read a file that `save` wrote.

        Args:
            path: Path of the file.

        Returns:
            The summary.

        Raises:
            UnreadableFile: If the file is missing or broken.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read: {error.strerror}. Write it with Summary.save().") from error
