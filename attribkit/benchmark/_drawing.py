"""The figures and LaTeX tables of a run's folder."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit.benchmark._identity import write_text_atomically
from attribkit.benchmark._statistics.summary import Summary, role
from attribkit.benchmark._tables.latex import latex, unique_slug
from attribkit.figures import PaperFigure, agreement, bars, check_ending, rankings
from attribkit.figures._curves import CurvePanel, draw_curves
from attribkit.figures._page import figure_width
from attribkit.figures._summaries import display_labels

_PANEL = 1.05  # inches, least width of a panel of bars


def write_figures(
    folder: str | Path, output: str | Path, *, width: float | str = "cvpr", suffix: str = ".pdf"
) -> tuple[list[Path], list[str]]:
    """Write all figures that a run's folder can show.

    scores-KIND: the scores with intervals, for each kind of metric. rankings-MODEL: critical difference diagrams.
    agreement: rank correlations of the metrics. curves-MODEL: mean curves, if the run has details. tables.tex: the
    scores, see `latex`.

    Args:
        folder: The output folder of a benchmark, with summary.json.
        output: Folder of the figures; it is created if it does not exist.
        width: Width of the figures in inches, or a name of `attribkit.figures.VENUES`.
        suffix: Format of the files, such as ".pdf" or ".png".

    Returns:
        The paths of the files, and a reason for each kind of figure that was left out.

    Raises:
        UnknownName: If `width` is not the name of a venue.
        InvalidInput: If `width` or `suffix` is not valid.
        UnreadableFile: If the folder does not contain a summary, or the figures cannot be written.
    """
    check_ending(f"figure{suffix}")
    figure_width(width)
    if not (Path(folder) / "summary.json").is_file():
        raise UnreadableFile(
            f"{str(folder)!r} does not contain a finished benchmark (summary.json is missing): pass the output folder "
            "of `attribkit benchmark`."
        )
    summary = Summary.load(Path(folder) / "summary.json")
    figures, missing = _figures(Path(folder), summary, width)
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreadableFile(f"The folder {str(output)!r} cannot be created ({error}): choose another one.") from error
    paths = [Path(output) / "tables.tex"]
    write_text_atomically(paths[0], latex(summary, width))
    for name, figure in figures.items():
        paths.append(Path(output) / f"{name}{suffix}")
        figure.save(paths[-1])
    return paths, missing


def _figures(folder: Path, summary: Summary, width: float | str) -> tuple[dict[str, PaperFigure], list[str]]:
    """Return the figures by name, and why others are missing."""
    figures, missing, rows = dict(_score_figures(summary, width)), [], _curve_rows(folder)
    models, used = list(dict.fromkeys(each.model for each in summary.scores)), set[str]()
    for model in models:
        name = unique_slug(model, used)
        if any(each.model == model and each.subset == "all" for each in summary.rankings):
            figures[f"rankings-{name}"] = rankings(summary, models=[model], width=width)
        panels = list(_curve_panels(rows, model, summary))
        if panels:
            figures[f"curves-{name}"] = draw_curves(panels, width=width)
        else:
            missing.append(
                f"curves of {model}: set save_details = true, with metrics such as 'deletion', and run again"
            )
    try:
        figures["agreement"] = agreement(summary, width=width)
    except InvalidInput as error:
        missing.append(f"agreement: {error}")
    if not summary.rankings:
        missing.append("rankings: the run has fewer than two methods or too few images")
    return figures, missing


def _score_figures(summary: Summary, width: float | str) -> Iterator[tuple[str, PaperFigure]]:
    """Yield figures of scores, with as many metrics as fit side by side."""
    metrics: dict[str, dict[str, None]] = {}
    for score in summary.scores:
        if score.subset == "all" and score.statistic == "mean" and not score.inverted:
            metrics.setdefault(score.kind, {})[score.metric] = None
    most = max(1, int(figure_width(width) / _PANEL))
    used: set[str] = set()
    for kind, labels in metrics.items():
        slug = unique_slug(kind, used)
        parts = [list(labels)[start : start + most] for start in range(0, len(labels), most)]
        for number, part in enumerate(parts, start=1):
            name = f"scores-{slug}" + (f"-{number}" if len(parts) > 1 else "")
            yield name, bars(summary, metrics=part, width=width)


def _curve_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of maps that were not inverted and have curves."""
    columns = ["model", "method", "metric", "image", "target", "details"]
    try:
        rows = ds.dataset(folder / "rows", format="parquet").to_table(columns, filter=~ds.field("inverted")).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UnreadableFile(f"The rows in {str(folder / 'rows')!r} cannot be read ({error}).") from error
    for row in rows:
        row["details"] = dict(row["details"] or ())
    return [row for row in rows if {"curve", "fractions"} <= set(row["details"])]


def _curve_panels(rows: Sequence[Mapping[str, Any]], model: str, summary: Summary) -> Iterator[CurvePanel]:
    """Yield a panel for each metric with curves, over the images that all methods have."""
    shown = {(score.method, score.metric) for score in summary.scores if score.model == model}
    curves: dict[str, dict[str, dict[Any, Mapping[str, Any]]]] = {}
    for row in rows:
        if row["model"] == model and (row["method"], row["metric"]) in shown:
            by_method = curves.setdefault(row["metric"], {})
            by_method.setdefault(row["method"], {})[row["image"], row["target"]] = row["details"]
    for metric, by_method in curves.items():
        yield _curve_panel(metric, by_method)


def _curve_panel(metric: str, by_method: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> CurvePanel:
    images = sorted(set.intersection(*(set(each) for each in by_method.values())), key=repr)
    fractions = np.asarray(next(iter(next(iter(by_method.values())).values()))["fractions"], float)
    names = display_labels(by_method)
    curves = {
        names[method]: np.array([of_image[image]["curve"] for image in images], float).reshape(-1, len(fractions))
        for method, of_image in by_method.items()
    }
    controls = frozenset(names[method] for method in by_method if role(method) != "method")
    return CurvePanel(metric, fractions, curves, controls)
