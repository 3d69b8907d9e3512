"""What a report contains: images with their maps, and the results of a benchmark."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from itertools import count as count_from
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from attribkit._contracts.attribution import Attribution, FailedAttribution
from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import middle_indices, to_pictures
from attribkit._core.shapes import Picture, Pictures
from attribkit.figures._figure import display_name, target_title
from attribkit.report._pictures import PictureOptions, encode_map

if TYPE_CHECKING:  # benchmarks need further packages
    from attribkit.benchmark import Failure
    from attribkit.benchmark._statistics.summary import SanityCheck
    from attribkit.benchmark._tables.panels import Panel

ARROWS = {True: "↑", False: "↓", None: ""}  # the better direction of a metric
SECTIONS = 8  # most frames of a clip, or slices of a volume


@dataclass(frozen=True, eq=False)
class View:
    """The maps of one image for one model and class.

    Args:
        model: Label of the model; an empty string if it is unknown.
        target: What is explained, such as the name of the class.
        facts: Further facts, such as the predicted probability.
        size: Height and width of the explained image, in pixels.
        picture: The image as a data URL; None if it is not available.
        boxes: Left, top, right and bottom edges of the objects, as fractions of the image.
        maps: Records of `encode_map` by the label of their method.
        problems: Why a map is missing, by the label of its method.
        scores: Values of the report's metrics by the label of their method; None where they are not defined.
    """

    model: str
    target: str
    facts: str
    size: tuple[int, int]
    picture: str | None
    boxes: Sequence[Sequence[float]] = ()
    maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ReportImage:
    """An image with its name and its views, one for each model and class."""

    name: str
    views: Sequence[View]


@dataclass(frozen=True)
class ScoreColumn:
    """A metric of the images' scores, and its direction; None if it does not have one."""

    metric: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class Chart:
    """A chart: its title, its data URL, a description for readers who do not see it, and a caption."""

    title: str
    url: str
    description: str
    caption: str


@dataclass(frozen=True)
class Matrix:
    """A table of text with a title and, optionally, a level from -5 to 5 for each cell, which sets its colour."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    levels: Sequence[Sequence[int | None]] = ()


@dataclass(frozen=True, eq=False)
class RunResults:
    """The results of a benchmark, section by section.

    Args:
        panels: Tables of scores.
        confidence: Confidence level of the intervals.
        rank_charts: Charts of mean ranks.
        ranks: Mean ranks of the methods.
        agreements: Agreement of the metrics.
        curves: Charts of deletion and insertion curves.
        curves_note: The reason why curves are missing; empty if there are curves.
        costs: Tables of time, forwards and memory.
        cost_charts: Charts of cost against faithfulness.
        checks: Sanity checks.
        failures: What failed.
        configuration: The whole configuration, as JSON.
        versions: Versions of the packages.
        options: Tables of models, methods and metrics with their options.
        notes: Limits of the statistics.
    """

    panels: "Sequence[Panel]"
    confidence: float
    rank_charts: Sequence[Chart]
    ranks: Sequence[Matrix]
    agreements: Sequence[Matrix]
    curves: Sequence[Chart]
    curves_note: str
    costs: Sequence[Matrix]
    cost_charts: Sequence[Chart]
    checks: "Sequence[SanityCheck]"
    failures: "Sequence[Failure]"
    configuration: str
    versions: Mapping[str, str]
    options: Sequence[Matrix]
    notes: Sequence[str]


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a report.

    Args:
        title: The title.
        facts: What the report covers, in a few words each.
        images: The images with their maps.
        methods: Labels of the methods, in their order.
        columns: The metrics of the images' scores.
        notes: Remarks on the images, such as why photographs are missing.
        method_notes: The methods with their options, and the notes of their maps.
        results: The results of a benchmark; None if the report is about maps only.
    """

    title: str
    facts: Sequence[str]
    images: Sequence[ReportImage]
    methods: Sequence[str]
    columns: Sequence[ScoreColumn] = ()
    notes: Sequence[str] = ()
    method_notes: Sequence[str] = ()
    results: RunResults | None = None


@dataclass(frozen=True, eq=False)
class ExplainedPicture:
    """A picture, or the frames of a clip, with the results of several methods for one class.

    Args:
        name: Name of the image or clip.
        target: What is explained, such as the name of the class.
        facts: Further facts, such as the predicted probability.
        picture: The picture (h, w, 3), or several (t, h, w, 3).
        results: Attributions of a batch size of 1, and failures, by the label of their method.
        model: Name of the model; empty if it is unknown.
    """

    name: str
    target: str
    facts: str
    picture: Pictures
    results: Mapping[str, Attribution | FailedAttribution]
    model: str = ""


def maps_content(pictures: Iterable[ExplainedPicture], title: str, options: PictureOptions) -> Content:
    """Return the content of a report about attributions, without a benchmark.

    Args:
        pictures: The pictures with their maps; those of the same name are views of one image.
        title: The title.
        options: How pictures and maps are stored.
    """
    images: dict[str, list[View]] = {}
    methods: dict[str, None] = {}
    notes: dict[str, None] = {}
    for each in pictures:
        methods |= dict.fromkeys(each.results)
        notes |= dict.fromkeys(_method_notes(each.results))
        for suffix, view in _views(each, options):
            images.setdefault(f"{each.name}{suffix}", []).append(view)
    facts = (count(len(images), "image"), count(len(methods), "method"))
    reported = [ReportImage(name, views) for name, views in images.items()]
    return Content(title, facts, reported, tuple(methods), method_notes=tuple(notes))


def explained_pictures(attributions: Mapping[str, Attribution]) -> Iterator[ExplainedPicture]:
    """Yield the images of attributions, each with all the maps of it for one target.

    Images of several attributions are the same if all their pixels are equal.

    Args:
        attributions: Attributions by their labels, such as the names of their files.
    """
    names: dict[str, str] = {}
    found: dict[tuple[str, str, str], ExplainedPicture] = {}
    labels = _method_labels(attributions)
    for key, batch in attributions.items():
        for attribution in batch.channels_first():
            x = attribution.x.detach().float().cpu().contiguous()
            digest = sha256(f"{x.shape}".encode() + x.numpy().tobytes()).hexdigest()
            name = names.setdefault(digest, f"image {len(names) + 1}")
            target, model = target_title(attribution.target, 0) or "no target", attribution.model
            before = found.get((name, model, target)) or ExplainedPicture(
                name, target, "", to_pictures(x)[0], {}, model=model
            )
            label = _unused_label(labels[key], key, before.results)
            found[name, model, target] = replace(before, results={**before.results, label: attribution})
    yield from found.values()


def _unused_label(label: str, key: str, used: Container[str]) -> str:
    """Return the label of a map, with the key and a number if other maps of the image have it."""
    candidates = chain([label, f"{label} ({key})"], (f"{label} ({key}, {number})" for number in count_from(2)))
    return next(each for each in candidates if each not in used)


def encode_maps(
    maps: Mapping[str, tuple[Float[Tensor, "rows columns"], Any]], size: tuple[int, int], longest: int
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the records of maps with their extents, and why maps are left out, by the labels of the methods."""
    encoded, problems = {}, {}
    for method, (scores, extent) in maps.items():
        try:
            encoded[method] = encode_map(scores, size, longest, extent)
        except InvalidInput as error:
            problems[method] = str(error)
    return encoded, problems


def _views(explained: ExplainedPicture, options: PictureOptions) -> Iterator[tuple[str, View]]:
    """Yield the view of a picture, or of some frames or slices, with a suffix of the name."""
    attributions = {name: each for name, each in explained.results.items() if isinstance(each, Attribution)}
    failures = {name: str(each) for name, each in explained.results.items() if name not in attributions}
    if explained.picture.ndim == 3:
        of_image = {name: _own_resolution(each) for name, each in attributions.items()}
        yield "", _view(explained, explained.picture, of_image, failures, options)
        return
    length = len(explained.picture)
    heatmaps = {name: each.channels_first().heatmap()[0] for name, each in attributions.items()}
    for index in middle_indices(length, min(SECTIONS, length)):
        of_section = {name: (heatmap[index], None) for name, heatmap in heatmaps.items()}
        yield f", section {index}", _view(explained, explained.picture[index], of_section, failures, options)


def _view(
    explained: ExplainedPicture,
    picture: Picture,
    maps: Mapping[str, tuple[Tensor, Any]],
    failures: Mapping[str, str],
    options: PictureOptions,
) -> View:
    size = (picture.shape[0], picture.shape[1])
    encoded, problems = encode_maps(maps, size, options.map)
    url = options.encode(picture)
    problems = {**failures, **problems}
    return View(explained.model, explained.target, explained.facts, size, url, maps=encoded, problems=problems)


def _own_resolution(attribution: Attribution) -> tuple[Tensor, Any]:
    """Return the scores of an image with their channels summed, and their extent."""
    return attribution.channels_first().scores[0].sum(0), attribution.extent


def _method_labels(attributions: Mapping[str, Attribution]) -> dict[str, str]:
    """Return the label of the method of each attribution; its key is added if methods with other options share it."""
    names = {key: display_name(each) for key, each in attributions.items()}
    variants: dict[str, set[str]] = {}
    for key, name in names.items():
        variants.setdefault(name, set()).add(repr(attributions[key].method))
    return {key: name if len(variants[name]) == 1 else f"{name} ({key})" for key, name in names.items()}


def _method_notes(results: Mapping[str, Attribution | FailedAttribution]) -> Iterator[str]:
    for label, each in results.items():
        yield f"{label}: {each.method!r}"
        yield from (f"{label}: {note}" for note in getattr(each, "notes", ()))


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number} {noun}{'s' * (number != 1)}"
