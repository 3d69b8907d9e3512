"""The rows of a benchmark, checked and sorted by model, metric and subset."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from attribkit._core.errors import InvalidInput, join_names
from attribkit.benchmark._statistics.bootstrap import Categories, DefinedValues, Groups, PerSample
from attribkit.benchmark._statistics.summary import role

ALL_IMAGES = "all"  # name of the subset of all images

_TEXT = ("model", "method", "method_options", "metric", "metric_options", "kind", "image", "group", "category")
_OTHER = ("inverted", "higher_is_better", "subsets", "value", "floor")
_NEVER_NULL = ("model", "method", "metric", "kind", "image", "group")
_DIRECTIONS = ("neither is better", "lower is better", "higher is better")
_RELABEL = "Use a different label for each"


class MapVariant(NamedTuple):
    """The maps of a method, or their negatives."""

    method: str
    inverted: bool


@dataclass(frozen=True, eq=False)
class MetricScores:
    """The scores by one metric of the maps of one model on one set of images.

    Args:
        model: Label of the model.
        subset: Name of the set of images.
        kind: Kind of the metric.
        metric: Label of the metric.
        higher_is_better: Direction of the metric; None if it does not have one.
        variants: The k kinds of maps, sorted by name.
        values: Value of each variant and sample; NaN where it is not defined.
        present: Whether there is a row for the variant and sample.
        floors: Value of unrelated maps; NaN where it is not available.
        groups: Group of each sample.
        categories: Category of each sample.
        group_names: Name of each group.
    """

    model: str
    subset: str
    kind: str
    metric: str
    higher_is_better: bool | None
    variants: tuple[MapVariant, ...]
    values: PerSample
    present: DefinedValues
    floors: PerSample
    groups: Groups
    categories: Categories
    group_names: tuple[str, ...]

    @property
    def direction(self) -> float:
        """1 where higher is better, -1 where lower is, NaN where neither is."""
        return {True: 1.0, False: -1.0, None: float("nan")}[self.higher_is_better]

    def not_inverted(self) -> list[int]:
        """Return the indices of the variants that are not inverted."""
        return [k for k, variant in enumerate(self.variants) if not variant.inverted]

    def scored_methods(self) -> list[int]:
        """Return the indices of methods that have a value, without controls, inverted maps and the ground truth."""
        methods = [k for k in self.not_inverted() if role(self.variants[k].method) == "method"]
        return [k for k in methods if not np.isnan(self.values[k]).all()]

    def restrict(self, chosen: Bool[np.ndarray, " n"], subset: str) -> "MetricScores | None":
        """Return the scores of a subset of the samples; None if it is empty."""
        if not chosen.any():
            return None
        present = self.present[:, chosen]
        kept = np.flatnonzero(present.any(1))
        old, groups = np.unique(self.groups[chosen], return_inverse=True)
        return MetricScores(
            model=self.model,
            subset=subset,
            kind=self.kind,
            metric=self.metric,
            higher_is_better=self.higher_is_better,
            variants=tuple(self.variants[k] for k in kept),
            values=self.values[kept][:, chosen],
            present=present[kept],
            floors=self.floors[kept][:, chosen],
            groups=groups.astype(np.int64),
            categories=self.categories[chosen],
            group_names=tuple(self.group_names[group] for group in old),
        )


@dataclass(frozen=True, eq=False)
class EncodedColumn:
    """A column of text as indices into its sorted distinct values.

    Args:
        codes: Index of each row's value; -1 for null.
        names: The distinct values, sorted.
    """

    codes: Int64[np.ndarray, " rows"]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ParsedRows:
    """The columns of a table of results that the statistics use.

    Args:
        text: The columns of text by name.
        inverted: Whether the map was negated.
        directions: 1 where higher is better, 0 where lower is, -1 where neither is.
        values: The value of the metric; NaN where it is not finite.
        floors: The value of unrelated maps; NaN where it is not available.
        subsets: The members of each subset, as a mask over the images.
    """

    text: dict[str, EncodedColumn]
    inverted: Bool[np.ndarray, " rows"]
    directions: Int64[np.ndarray, " rows"]
    values: np.ndarray
    floors: np.ndarray
    subsets: dict[str, Bool[np.ndarray, " images"]]


def group_means(values: PerSample, groups: Groups) -> Float64[np.ndarray, "k g"]:
    """Return the mean of each group's defined samples, NaN if there are none; tests use the groups as blocks."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    defined = ~np.isnan(values)
    sums = np.add.reduceat(np.where(defined, values, 0.0), starts, axis=1)
    with np.errstate(invalid="ignore"):
        return sums / np.add.reduceat(defined.astype(np.int64), starts, axis=1)


def read_rows(table: Any) -> ParsedRows:
    """Read and check the columns of a pyarrow Table.

    Raises:
        InvalidInput: If columns are missing, rows contradict each other, or there are none.
    """
    lacking = [name for name in (*_TEXT, *_OTHER) if name not in table.column_names]
    if lacking:
        raise InvalidInput(
            f"The rows lack the column {join_names(lacking)}; they have {join_names(table.column_names)}."
        )
    if not table.num_rows:
        raise InvalidInput("There are no rows to summarise: see the failures of the benchmark.")
    text = {name: _encode(table[name]) for name in _TEXT}
    for name in _NEVER_NULL:
        if nulls := int((text[name].codes < 0).sum()):
            raise InvalidInput(f"The column {name!r} must not contain null, got {nulls} rows with null.")
    rows = ParsedRows(
        text=text,
        inverted=_fill_null(table["inverted"], False).astype(bool),
        directions=_fill_null(table["higher_is_better"].cast("int64"), -1),
        values=_finite(table["value"]),
        floors=_finite(table["floor"]),
        subsets=_subsets(table["subsets"], text["image"]),
    )
    _check(rows)
    return rows


def plugin_options(rows: ParsedRows, kind: str) -> dict[str, str]:
    """Return the options of each "method" or "metric" by its label."""
    labels, options = rows.text[kind], rows.text[f"{kind}_options"]
    pairs = zip(labels.names, _value_per_name(labels, options.codes).tolist(), strict=True)
    return {label: options.names[code] if code >= 0 else "" for label, code in pairs}


def split_by_metric(rows: ParsedRows) -> Iterator[MetricScores]:
    """Yield the scores of each model, subset and metric, in this order; the set of all images comes first."""
    models, metrics = rows.text["model"], rows.text["metric"]
    key = models.codes * len(metrics.names) + metrics.codes
    order = np.argsort(key, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
    pairs = [_metric_scores(rows, part) for part in parts]
    for model in models.names:
        of_model = [(scores, images) for scores, images in pairs if scores.model == model]
        yield from (scores for scores, _ in of_model)
        for subset, members in rows.subsets.items():
            restricted = [scores.restrict(members[images], subset) for scores, images in of_model]
            yield from (scores for scores in restricted if scores is not None)


def _metric_scores(rows: ParsedRows, part: np.ndarray) -> tuple[MetricScores, np.ndarray]:
    """Return the scores in these rows, of one model and metric, and the image of each sample."""
    codes = {name: column.codes[part] for name, column in rows.text.items()}
    images, first = np.unique(codes["image"], return_index=True)
    order = np.lexsort((images, codes["group"][first]))
    group_codes, groups = np.unique(codes["group"][first][order], return_inverse=True)
    sample_of_image = np.empty(len(rows.text["image"].names), np.intp)
    sample_of_image[images[order]] = np.arange(len(images))
    sample = sample_of_image[codes["image"]]
    variant_codes, variant = np.unique(codes["method"] * 2 + rows.inverted[part], return_inverse=True)
    methods = rows.text["method"].names
    variants = tuple(MapVariant(methods[code // 2], bool(code % 2)) for code in variant_codes.tolist())
    _check_unique(rows, part, variant * len(images) + sample)
    values, floors = np.full((2, len(variants), len(images)), np.nan)
    present = np.zeros(values.shape, bool)
    values[variant, sample], floors[variant, sample] = rows.values[part], rows.floors[part]
    present[variant, sample] = True
    scores = MetricScores(
        model=rows.text["model"].names[codes["model"][0]],
        subset=ALL_IMAGES,
        kind=rows.text["kind"].names[codes["kind"][0]],
        metric=rows.text["metric"].names[codes["metric"][0]],
        higher_is_better={1: True, 0: False, -1: None}[int(rows.directions[part[0]])],
        variants=variants,
        values=values,
        present=present,
        floors=floors,
        groups=groups.astype(np.int64),
        categories=codes["category"][first][order],
        group_names=tuple(rows.text["group"].names[group] for group in group_codes),
    )
    return scores, images[order]


def _encode(column: Any) -> EncodedColumn:
    array = column.cast("string").dictionary_encode().combine_chunks()
    if hasattr(array, "chunks"):  # an empty one stays chunked
        array = array.chunk(0)
    names = array.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names) + 1, np.int64)
    rank[order], rank[-1] = np.arange(len(names)), -1
    return EncodedColumn(rank[_fill_null(array.indices, -1)], tuple(names[k] for k in order))


def _fill_null(column: Any, null: Any) -> np.ndarray:
    return np.asarray(column.fill_null(null))


def _finite(column: Any) -> np.ndarray:
    """Return the numbers, NaN where they are null or infinite."""
    values = _fill_null(column.cast("float64"), np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _subsets(column: Any, images: EncodedColumn) -> dict[str, np.ndarray]:
    lists = [names or [] for names in column.take(_value_per_name(images, np.arange(len(column)))).to_pylist()]
    subsets = sorted({name for names in lists for name in names})
    return {name: np.array([name in names for names in lists]) for name in subsets}


def _check(rows: ParsedRows) -> None:
    """Reject rows that use one label for two different things, whose mean would be meaningless."""
    text = rows.text
    for label in ("method", "metric"):
        _check_consistent(rows, label, text[f"{label}_options"], "options", _RELABEL)
    _check_consistent(rows, "metric", text["kind"], "kinds", _RELABEL)
    _check_consistent(rows, "metric", EncodedColumn(rows.directions + 1, _DIRECTIONS), "directions", _RELABEL)
    for column in ("group", "category"):
        _check_consistent(rows, "image", text[column], f"values of {column!r}", "Use a unique id for each sample")
    if ALL_IMAGES in rows.subsets:
        raise InvalidInput(f"The subset name {ALL_IMAGES!r} is reserved for the set of all images. Rename the subset.")


def _check_consistent(rows: ParsedRows, label: str, values: EncodedColumn, what: str, advice: str) -> None:
    keys = rows.text[label]
    expected = _value_per_name(keys, values.codes)
    other = np.flatnonzero(values.codes != expected[keys.codes])
    if len(other):
        key = keys.codes[other[0]]
        codes = sorted((int(expected[key]), int(values.codes[other[0]])))
        shown = " and ".join(repr(values.names[code] if code >= 0 else None) for code in codes)
        raise InvalidInput(f"The {label} {keys.names[key]!r} has different {what} in these rows, {shown}. {advice}.")


def _value_per_name(keys: EncodedColumn, values: np.ndarray) -> np.ndarray:
    """Return the value of a row for each distinct name of a column."""
    result = np.empty(len(keys.names), values.dtype)
    result[keys.codes] = values
    return result


def _check_unique(rows: ParsedRows, part: np.ndarray, cells: np.ndarray) -> None:
    counts = np.bincount(cells)
    if counts.max() > 1:
        row = part[np.flatnonzero(cells == counts.argmax())[0]]
        where = [rows.text[name].names[rows.text[name].codes[row]] for name in ("model", "method", "metric", "image")]
        raise InvalidInput(
            f"{int(counts.max())} rows have the same model, method, metric and image, {where}. Keep one of them."
        )
