"""The page of a report: one HTML file that contains its pictures, style and script, and loads nothing."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from attribkit._contracts.attribution import Attribution
from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit._core.serialization import write_whole
from attribkit.report._content import ARROWS, Content, ReportImage, View, explained_pictures, maps_content
from attribkit.report._pictures import PictureOptions, colour_table

if TYPE_CHECKING:  # benchmarks need further packages
    from attribkit.benchmark._statistics.summary import SummaryScore
    from attribkit.benchmark._tables.panels import Panel, PanelRow

MAX_IMAGES = 512
_MARGIN = 4  # percent of the width of an interval's drawing, left and right
_TEMPLATES = Environment(
    loader=PackageLoader("attribkit.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip


def write_report(
    source: str | Path | Attribution | Sequence[str | Path | Attribution],
    path: str | Path,
    *,
    title: str | None = None,
    picture_size: int = 288,
    map_size: int = 90,
    photographs: bool = True,
    max_images: int = MAX_IMAGES,
) -> None:
    """Write a report as one HTML file that a browser opens without a server or a network.

    The report about a run contains its images with their maps, tables with intervals, curves, agreement of the metrics,
    costs, sanity checks, failures, and the whole configuration. It contains the photographs if the data set and the
    models are available under the names in the configuration. The report about maps contains the images with their
    maps. The same input gives the same bytes.

    Args:
        source: The output folder of a benchmark, or attributions and paths of files that `Attribution.save` wrote.
            Attributions of equal images are shown together.
        path: Path of the HTML file. It is written completely or not at all.
        title: The title; None means the name of the run, or "Attribution maps".
        picture_size: Longer side of the photographs, in pixels; larger ones are reduced.
        map_size: Longer side of the maps, in grid cells; finer ones are averaged. Values have 8 bits.
        photographs: Whether to include the photographs and, for a run, the names of the classes. They require the data
            set, the models and the plugins of the run, and run the Python files that its configuration names.
        max_images: Number of images that are contained at most, from the first one on.

    Raises:
        UnreadableFile: If the source cannot be read, or the path cannot be written.
        InvalidInput: If the source is empty, a size is not a positive integer, or the path does not end in .html.

    Example:
        >>> from attribkit.report import write_report
        >>> write_report([explainer.attribute(x, "gradcam"), explainer.attribute(x, "saliency")], "maps.html")
    """
    options = PictureOptions(picture_size, map_size, photographs)
    _check_count(max_images)
    _check_path(path)
    write_page(_content(source, title, options, max_images), path)


def write_page(content: Content, path: str | Path) -> None:
    """Write the page of a report.

    Args:
        content: What it contains.
        path: Path of the HTML file.

    Raises:
        UnreadableFile: If the path cannot be written.
    """
    text = render_page(content).encode("utf-8", "backslashreplace")  # names of files may contain lone surrogates
    try:
        write_whole(Path(path), lambda temporary: temporary.write_bytes(text))
    except OSError as error:
        raise UnreadableFile(f"{str(path)!r} cannot be written ({error}): check the folder.") from error


def render_page(content: Content) -> str:
    """Return the HTML text of a report."""
    style, script = (_read_asset(name) for name in ("report.css", "report.js"))
    return _TEMPLATES.get_template("report.html").render(
        content=content,
        results=content.results,
        style=Markup(style),  # a file of this package
        script=Markup(script),
        policy=_policy(style, script),
        index=json_block(_index(content)),
        images=[json_block(_image_record(each)) for each in content.images],
        leaderboards=[] if content.results is None else [_leaderboard(each) for each in content.results.panels],
        number=_number,
    )


def json_block(value: Any) -> Markup:
    """Return a value as JSON for a script element: without characters that could end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # characters that HTML interprets are escaped above


def _check_count(max_images: Any) -> None:
    if isinstance(max_images, bool) or not isinstance(max_images, int) or max_images < 1:
        raise InvalidInput(f"max_images must be a positive integer, got {max_images!r}: omit it for {MAX_IMAGES}.")


def _check_path(path: str | Path) -> None:
    """Raise an error, before the work, if the path is not that of an HTML file in an existing folder."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InvalidInput(f"{str(path)!r} does not end in .html: pass a path such as 'report.html'.")
    if Path(path).is_dir() or not Path(path).parent.is_dir():
        raise UnreadableFile(f"{str(path)!r} cannot be written: it is a folder, or its folder does not exist.")


def _content(source: Any, title: str | None, options: PictureOptions, max_images: int) -> Content:
    """Return the content for a source: a folder, or files and attributions."""
    sources = [source] if isinstance(source, str | Path | Attribution) else list(source)
    if not sources:
        raise InvalidInput("source is empty: pass the output folder of a benchmark, or one or more attributions.")
    folders = [each for each in sources if not isinstance(each, Attribution) and Path(each).is_dir()]
    if folders and len(sources) > 1:
        raise InvalidInput(f"A report is about one run or about maps, got {sources!r}: pass a single folder, or files.")
    if folders:
        from attribkit.report._run import run_content  # needs the packages of benchmarks

        return run_content(Path(folders[0]), title, options, max_images)
    for each in sources:
        if not isinstance(each, Attribution) and not Path(each).exists():
            raise UnreadableFile(
                f"{str(each)!r} does not exist: pass the output folder of `attribkit benchmark`, or files that "
                "Attribution.save wrote."
            )
    content = maps_content(explained_pictures(_loaded(sources)), title or "Attribution maps", options)
    return _limited(content, max_images)


def _limited(content: Content, max_images: int) -> Content:
    if len(content.images) <= max_images:
        return content
    note = f"{max_images} of the {len(content.images)} images are shown."
    return replace(content, images=content.images[:max_images], notes=(*content.notes, note))


def _loaded(sources: Sequence[str | Path | Attribution]) -> dict[str, Attribution]:
    """Return attributions by the names of their files, or by their number."""
    stems = [Path(each).stem for each in sources if not isinstance(each, Attribution)]
    loaded: dict[str, Attribution] = {}
    for number, each in enumerate(sources, start=1):
        if isinstance(each, Attribution):
            loaded[f"attribution {number}"] = each
        else:
            stem = Path(each).stem
            loaded[stem if stems.count(stem) == 1 else str(each)] = Attribution.load(each)
    return loaded


def _read_asset(name: str) -> str:
    source = _TEMPLATES.loader.get_source(_TEMPLATES, name)[0]  # type: ignore[union-attr]
    return f"\n{source.strip()}\n"


def _policy(style: str, script: str) -> str:
    """Return a Content Security Policy that permits this style, this script and pictures in the file, nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _index(content: Content) -> dict[str, Any]:
    """Return what the script needs before it shows an image."""
    return {
        "images": [each.name for each in content.images],
        "methods": list(content.methods),
        "columns": [f"{each.metric} {ARROWS[each.higher_is_better]}".strip() for each in content.columns],
        "colours": colour_table(),
    }


def _image_record(image: ReportImage) -> dict[str, Any]:
    """Return an image for JSON, with each of its pictures once."""
    pictures = list(dict.fromkeys(each.picture for each in image.views if each.picture is not None))
    views = [_view_record(each, pictures) for each in image.views]
    return {"name": image.name, "pictures": pictures, "views": views}


def _view_record(view: View, pictures: Sequence[str]) -> dict[str, Any]:
    picture = None if view.picture is None else pictures.index(view.picture)
    return {**asdict(view), "picture": picture}


_Span = tuple[float, float, float]  # low end, value and high end of an interval


@dataclass(frozen=True)
class LeaderboardCell:
    """A cell of a leaderboard: text, whether it is the best, and the ends and centre of its interval in percent."""

    value: str
    interval: str
    best: bool
    span: _Span | None


def _leaderboard(panel: "Panel") -> dict[str, Any]:
    """Return a panel of scores with the positions of the intervals in their columns."""
    spans = [_spans([row.cells[k] for row in (*panel.methods, *panel.controls)]) for k in range(len(panel.columns))]
    return {
        "panel": panel,
        "heads": [f"{each.title} {ARROWS[each.higher_is_better]}".strip() for each in panel.columns],
        "groups": [
            [(row, list(_cells(panel, row, spans))) for row in rows] for rows in (panel.methods, panel.controls) if rows
        ],
    }


def _cells(panel: "Panel", row: "PanelRow", spans: Sequence[Mapping[int, _Span]]) -> Iterator[LeaderboardCell]:
    from attribkit.benchmark._tables.panels import cell_text  # needs the packages of benchmarks

    for score, column, of_column in zip(row.cells, panel.columns, spans, strict=True):
        value, interval = cell_text(score, column.decimals)
        yield LeaderboardCell(value, interval, bool(score and score.best), of_column.get(id(score)))


def _spans(scores: Iterable["SummaryScore | None"]) -> dict[int, _Span]:
    """Return low end, value and high end of each score on a common scale in percent, by the identity of the score."""
    estimates = {id(each): each.estimate for each in scores if each is not None and math.isfinite(each.estimate.value)}
    ends = {
        key: [each.value if math.isnan(end) else end for end in (each.low, each.value, each.high)]
        for key, each in estimates.items()
    }
    low, high = min(map(min, ends.values()), default=0.0), max(map(max, ends.values()), default=1.0)
    factor = (100 - 2 * _MARGIN) / (high - low) if high > low else 0.0
    return {
        key: (a, b, c) for key, (a, b, c) in ((k, [_MARGIN + factor * (e - low) for e in v]) for k, v in ends.items())
    }


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:z.3f}"
