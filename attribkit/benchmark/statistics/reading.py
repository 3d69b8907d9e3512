"""[benchmark/statistics/per_group] One number per image, for tests that take images for independent.
[benchmark/statistics/question] The numbers that belong together.
[benchmark/statistics/reading] Rows of a benchmark, sorted into questions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from attribkit.benchmark.statistics.bootstrap import Categories, DefinedValues, Groups, PerSample
from attribkit.benchmark.statistics.summary import role
from attribkit.core.errors import InvalidInput, join_names


def group_means(values: PerSample, groups: Groups) -> Float64[np.ndarray, "k g"]:
    """Means of each group's samples that are defined; NaN where it has none."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    defined = ~np.isnan(values)
    sums = np.add.reduceat(np.where(defined, values, 0.0), starts, axis=1)
    with np.errstate(invalid="ignore"):
        return sums / np.add.reduceat(defined.astype(np.int64), starts, axis=1)


ALL = "all"


class Contestant(NamedTuple):
    """A method's maps, or their negatives."""

    method: str
    inverted: bool


@dataclass(frozen=True, eq=False)
class MetricScores:
    """What one metric says of the maps of one model on one set of images."""

    model: str
    subset: str
    kind: str
    metric: str
    higher_is_better: bool | None
    contestants: tuple[Contestant, ...]  # k of them, by name
    values: PerSample
    present: DefinedValues  # there is a row
    floors: PerSample  # what unrelated maps get; NaN where not given
    groups: Groups
    categories: Categories
    identities: tuple[str, ...]  # of the groups

    @property
    def direction(self) -> float:
        """1 where higher is better, -1 where lower is, NaN where neither is."""
        return {True: 1.0, False: -1.0, None: float("nan")}[self.higher_is_better]

    def upright(self) -> list[int]:
        """The contestants that are not inverted."""
        return [k for k, contestant in enumerate(self.contestants) if not contestant.inverted]

    def competing(self) -> list[int]:
        """The methods that have a number: no controls, no negatives, not the truth."""
        methods = [k for k in self.upright() if role(self.contestants[k].method) == "method"]
        return [k for k in methods if not np.isnan(self.values[k]).all()]

    def among(self, chosen: Bool[np.ndarray, " n"], subset: str) -> "MetricScores | None":
        """The same question of some of the samples; None where there are none."""
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
            contestants=tuple(self.contestants[k] for k in kept),
            values=self.values[kept][:, chosen],
            present=present[kept],
            floors=self.floors[kept][:, chosen],
            groups=groups.astype(np.int64),
            categories=self.categories[chosen],
            identities=tuple(self.identities[group] for group in old),
        )


_TEXT = ("model", "method", "method_options", "metric", "metric_options", "kind", "image", "group", "category")
_OTHER = ("inverted", "higher_is_better", "subsets", "value", "floor")
_NEVER_NULL = ("model", "method", "metric", "kind", "image", "group")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A column of text: the number of each row's name among the sorted names, -1 for null."""

    codes: Int64[np.ndarray, " rows"]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """The columns of a table that the statistics read."""

    text: dict[str, Encoded]
    inverted: Bool[np.ndarray, " rows"]
    directions: Int64[np.ndarray, " rows"]  # 1 higher is better, 0 lower is, -1 neither
    values: np.ndarray
    floors: np.ndarray
    subsets: dict[str, Bool[np.ndarray, " images"]]  # which images are in them


def read_rows(table: Any) -> Rows:
    """The columns of a pyarrow Table; InvalidInput where they contradict each other."""
    lacking = [name for name in (*_TEXT, *_OTHER) if name not in table.column_names]
    if lacking:
        raise InvalidInput(
            f"The rows have no column {join_names(lacking)}; they have {join_names(table.column_names)}."
        )
    if not table.num_rows:
        raise InvalidInput("There are no rows to summarise: nothing was measured.")
    text = {name: _encoded(table[name]) for name in _TEXT}
    for name in _NEVER_NULL:
        if (text[name].codes < 0).any():
            raise InvalidInput(f"Rows without {name!r} cannot be told apart: {(text[name].codes < 0).sum()} of them.")
    rows = Rows(
        text=text,
        inverted=_filled(table["inverted"], False).astype(bool),
        directions=_filled(table["higher_is_better"].cast("int64"), -1),
        values=_finite(table["value"]),
        floors=_finite(table["floor"]),
        subsets=_subsets(table["subsets"], text["image"]),
    )
    _check(rows)
    return rows


def plugin_options(rows: Rows, name: str) -> dict[str, str]:
    """The options of each "method" or "metric", by its label."""
    labels, written = rows.text[name], rows.text[f"{name}_options"]
    found = zip(labels.names, _of_each(labels, written.codes).tolist(), strict=True)
    return {label: written.names[code] if code >= 0 else "" for label, code in found}


def questions(rows: Rows) -> Iterator[MetricScores]:
    """A question for each model, subset and metric, in this order; all images come before subsets."""
    models, metrics = rows.text["model"], rows.text["metric"]
    key = models.codes * len(metrics.names) + metrics.codes
    order = np.argsort(key, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
    asked = [_question(rows, part) for part in parts]
    for model in models.names:
        own = [(question, images) for question, images in asked if question.model == model]
        yield from (question for question, _ in own)
        for subset, members in rows.subsets.items():
            some = [question.among(members[images], subset) for question, images in own]
            yield from (question for question in some if question is not None)


def _question(rows: Rows, part: np.ndarray) -> tuple[MetricScores, np.ndarray]:
    """The question that these rows answer, and the image of each of its samples."""
    codes = {name: column.codes[part] for name, column in rows.text.items()}
    images, first = np.unique(codes["image"], return_index=True)
    order = np.lexsort((images, codes["group"][first]))
    groups_seen, groups = np.unique(codes["group"][first][order], return_inverse=True)
    places = np.empty(len(rows.text["image"].names), np.intp)
    places[images[order]] = np.arange(len(images))
    place = places[codes["image"]]
    kinds, who = np.unique(codes["method"] * 2 + rows.inverted[part], return_inverse=True)
    methods = rows.text["method"].names
    contestants = tuple(Contestant(methods[kind // 2], bool(kind % 2)) for kind in kinds.tolist())
    _check_once(rows, part, who * len(images) + place)
    values, floors = np.full((2, len(kinds), len(images)), np.nan)
    present = np.zeros(values.shape, bool)
    values[who, place], floors[who, place], present[who, place] = rows.values[part], rows.floors[part], True
    question = MetricScores(
        model=rows.text["model"].names[codes["model"][0]],
        subset=ALL,
        kind=rows.text["kind"].names[codes["kind"][0]],
        metric=rows.text["metric"].names[codes["metric"][0]],
        higher_is_better={1: True, 0: False, -1: None}[int(rows.directions[part[0]])],
        contestants=contestants,
        values=values,
        present=present,
        floors=floors,
        groups=groups.astype(np.int64),
        categories=codes["category"][first][order],
        identities=tuple(rows.text["group"].names[group] for group in groups_seen),
    )
    return question, images[order]


def _encoded(column: Any) -> Encoded:
    array = column.cast("string").dictionary_encode().combine_chunks()
    if hasattr(array, "chunks"):  # an empty one stays chunked
        array = array.chunk(0)
    found = array.dictionary.to_pylist()
    order = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found) + 1, np.int64)
    rank[order], rank[-1] = np.arange(len(found)), -1
    return Encoded(rank[_filled(array.indices, -1)], tuple(found[k] for k in order))


def _filled(column: Any, null: Any) -> np.ndarray:
    return np.asarray(column.fill_null(null))


def _finite(column: Any) -> np.ndarray:
    """Numbers, NaN where there is none: what is infinite is no more defined than what is not a number."""
    values = _filled(column.cast("float64"), np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _subsets(column: Any, images: Encoded) -> dict[str, np.ndarray]:
    lists = [names or [] for names in column.take(_of_each(images, np.arange(len(column)))).to_pylist()]
    found = sorted({name for names in lists for name in names})
    return {name: np.array([name in names for names in lists]) for name in found}


def _check(rows: Rows) -> None:
    """Refuse rows that call two things by one name: their means would be of neither."""
    text = rows.text
    for label in ("method", "metric"):
        _check_one_each(rows, label, text[f"{label}_options"], "options", "give each its own label")
    _check_one_each(rows, "metric", text["kind"], "kinds", "give each its own label")
    names = ("neither is better", "lower is better", "higher is better")
    _check_one_each(rows, "metric", Encoded(rows.directions + 1, names), "directions", "give each its own label")
    for of in ("group", "category"):
        _check_one_each(rows, "image", text[of], f"values of {of!r}", "give each sample an id of its own")
    if ALL in rows.subsets:
        raise InvalidInput(f"A subset is called {ALL!r}, which is what tables call all images: rename it.")


def _check_one_each(rows: Rows, label: str, values: Encoded, what: str, advice: str) -> None:
    keys = rows.text[label]
    seen = _of_each(keys, values.codes)
    other = np.flatnonzero(values.codes != seen[keys.codes])
    if len(other):
        key = keys.codes[other[0]]
        codes = sorted((int(seen[key]), int(values.codes[other[0]])))
        shown = " and ".join(repr(values.names[code] if code >= 0 else None) for code in codes)
        raise InvalidInput(f"The {label} {keys.names[key]!r} has several {what} in these rows, {shown}: {advice}.")


def _of_each(keys: Encoded, values: np.ndarray) -> np.ndarray:
    """A row's value for each name of a column."""
    found = np.empty(len(keys.names), values.dtype)
    found[keys.codes] = values
    return found


def _check_once(rows: Rows, part: np.ndarray, cells: np.ndarray) -> None:
    counts = np.bincount(cells)
    if counts.max() > 1:
        row = part[np.flatnonzero(cells == counts.argmax())[0]]
        where = [rows.text[name].names[rows.text[name].codes[row]] for name in ("model", "method", "metric", "image")]
        raise InvalidInput(
            f"{int(counts.max())} rows are of the same model, method, metric and image, {where}: keep one of each."
        )
