"""Mean curves over images with bootstrap bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from attribkit._core.errors import InvalidInput
from attribkit._runs.measurement import MetricResult
from attribkit.figures._files import PaperFigure, paper_style
from attribkit.figures._page import PAD, SMALL, figure_width, text_width, wrap

_HANDLE = 0.5  # inches of an entry of the legend without its text
_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))  # differ in grey print
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class CurvePanel:
    """The curves of one metric.

    Args:
        title: Title of the panel.
        fractions: Fractions of the pixels at the points of the curves.
        curves: Curves of the images for each name, (images, points).
        controls: Names that are drawn as thin grey lines without bands.
    """

    title: str
    fractions: Float[np.ndarray, " points"]
    curves: Mapping[str, Float[np.ndarray, "images points"]]
    controls: frozenset[str] = frozenset()

    def defined(self) -> "CurvePanel":
        """Return the curves of the images for which all curves are finite, so that all means are over these."""
        finite = np.all([np.isfinite(each).all(1) for each in self.curves.values()], axis=0)
        return replace(self, curves={name: each[finite] for name, each in self.curves.items()})

    @property
    def images(self) -> int:
        """The number of images."""
        return len(next(iter(self.curves.values())))


def curves(
    results: MetricResult | Sequence[MetricResult],
    names: Sequence[str],
    *,
    width: float | str = "cvpr",
    confidence: float = 0.95,
    seed: int = 0,
    note: str | None = None,
) -> PaperFigure:
    """Draw the mean curve of each attribution over the images, with bootstrap bands; a panel for each metric.

    The band of a point is the percentile interval of the mean, from 1000 samples of the images with replacement. Images
    with an undefined value in one of the curves are left out of all curves of the metric, and the caption states their
    number.

    Args:
        results: Results of `Explainer.measure` for metrics with curves, such as deletion and insertion.
        names: Name of each attribution.
        width: Width of the figure in inches, or a name of `VENUES`.
        confidence: Confidence level of the bands; 0 omits them.
        seed: Seed of the bootstrap.
        note: Text below the figure; None states the number of images and the confidence level, "" omits it.

    Returns:
        The figure; write it with its method ``save``.

    Raises:
        InvalidInput: If a metric does not have curves, or `names` or `confidence` does not fit.

    Example:
        >>> results = explainer.measure(maps, ["deletion", "insertion"])
        >>> curves(results, ["Grad-CAM", "Occlusion"]).save("curves.pdf")
    """
    results = [results] if isinstance(results, MetricResult) else list(results)
    panels = [_panel(result, names) for result in results]
    return draw_curves(panels, width=width, confidence=confidence, seed=seed, note=note)


def _panel(result: MetricResult, names: Sequence[str]) -> CurvePanel:
    if not {"curve", "fractions"} <= set(result.details):
        raise InvalidInput(
            f"The metric {result.metric.name!r} does not have curves: pass results of metrics such as 'deletion' and "
            "'insertion'."
        )
    if len(names) != len(result.values) or len(set(names)) != len(names):
        raise InvalidInput(
            f"names must name each of the {len(result.values)} attributions, each with a different name, got "
            f"{list(names)}."
        )
    curve, fractions = (result.details[key].double().cpu().numpy() for key in ("curve", "fractions"))
    return CurvePanel(result.metric.name, fractions[0, 0], dict(zip(names, curve, strict=True)))


def draw_curves(
    panels: Sequence[CurvePanel],
    *,
    width: float | str = "cvpr",
    confidence: float = 0.95,
    seed: int = 0,
    note: str | None = None,
) -> PaperFigure:
    """Draw panels of curves side by side; see `curves`."""
    if not panels or not 0 <= confidence < 1:
        raise InvalidInput(
            f"curves needs at least one result and a confidence from 0 to below 1, got {len(panels)} results and "
            f"confidence={confidence!r}."
        )
    complete = [panel.defined() for panel in panels]
    text = _note(panels, complete, confidence) if note is None else note
    controls = {name for panel in panels for name in panel.controls}
    names = sorted(dict.fromkeys(name for panel in panels for name in panel.curves), key=controls.__contains__)
    total = figure_width(width)
    labels = {name: wrap(name, total - _HANDLE - 2 * PAD, SMALL, 1) for name in names}
    entry = max(text_width(label, SMALL) for label in labels.values()) + _HANDLE
    rows = -(-len(names) // max(1, int((total - PAD) / entry)))
    with paper_style():
        caption = wrap(text, total - 2 * PAD, SMALL)
        for_caption = _LINE * len(caption.splitlines()) + PAD
        below = for_caption + _ENTRY * rows + 2 * PAD
        height = 0.75 * total / max(2, len(panels)) + 0.3 + below
        figure = PaperFigure(figsize=(total, height))
        figure.set_layout_engine("constrained", rect=(0, below / height, 1, 1 - below / height))
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, complete, strict=True):
            for name in panel.curves:
                _draw_curve(ax, panel, name, names.index(name), confidence, seed)
            ax.set(title=panel.title, xlabel="fraction of the pixels", xlim=(0, 1))
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes[0].set_ylabel("score of the target")
        _draw_legend(figure, labels, -(-len(names) // rows), (for_caption + PAD) / height)
        figure.supxlabel(
            caption, x=PAD / total, y=for_caption / height, ha="left", va="top", fontsize=SMALL
        ).set_in_layout(False)
    return figure


def _draw_legend(figure: PaperFigure, labels: Mapping[str, str], columns: int, bottom: float) -> None:
    """Draw the legend of all panels, with the labels of the names, from this height, as a fraction of the figure."""
    lines = {line.get_label(): line for ax in figure.axes for line in ax.get_lines()}
    legend = figure.legend(
        [lines[name] for name in labels],
        list(labels.values()),
        loc="lower center",
        bbox_to_anchor=(0.5, bottom),
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
    )
    legend.set_in_layout(False)


_LINE, _ENTRY = 0.13, 0.16  # inches, height of a line of the caption and of an entry of the legend


def _note(panels: Sequence[CurvePanel], complete: Sequence[CurvePanel], confidence: float) -> str:
    parts = [
        f"{panel.title}: {kept.images} of {panel.images} images, the others are undefined"
        for panel, kept in zip(panels, complete, strict=True)
        if kept.images < panel.images
    ]
    over = f"Means over {panels[0].images} images" + (f" ({'; '.join(parts)})" if parts else "")
    return f"{over}; {confidence:.0%} bootstrap intervals." if confidence else f"{over}."


def _draw_curve(ax: Axes, panel: CurvePanel, name: str, i: int, confidence: float, seed: int) -> None:
    curve, is_control = panel.curves[name], name in panel.controls
    mean = curve.mean(0) if len(curve) else np.full(len(panel.fractions), np.nan)
    colour, width = ("0.55", 0.7) if is_control else (f"C{i % 10}", 1.1)
    (line,) = ax.plot(
        panel.fractions, mean, label=name, color=colour, linewidth=width, linestyle=_STYLES[i % len(_STYLES)]
    )
    if confidence and len(curve) > 1 and not is_control:
        samples = np.random.default_rng(seed).integers(0, len(curve), (_RESAMPLES, len(curve)))
        means = np.stack([curve[sample].mean(0) for sample in samples])
        low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
        ax.fill_between(panel.fractions, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
