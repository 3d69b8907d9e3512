"""Who comes before whom, and whether metrics agree on it, in the terminal."""

import itertools
from collections.abc import Iterable
from string import ascii_lowercase

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from attribkit.benchmark.statistics.summary import Agreement, Ranking, Summary


def ranking_tables(summary: Summary) -> list[Table]:
    """A table of mean ranks for each metric; methods that share a letter are not told apart."""
    return [_ranking(ranking, summary.confidence) for ranking in summary.rankings]


def agreement_tables(summary: Summary) -> list[Table]:
    """A matrix of metrics for each model and set of images: tau-b of the methods' mean ranks, and on one image."""
    groups = itertools.groupby(summary.agreements, lambda each: (each.model, each.subset))
    return [_matrix(_where(*key), {(each.first, each.second): each for each in group}) for key, group in groups]


def _ranking(ranking: Ranking, confidence: float) -> Table:
    table = Table(
        title=escape(f"{_where(ranking.model, ranking.subset)}: {ranking.metric}"),
        caption=f"Mean ranks over {ranking.images} images. Critical difference (Nemenyi, {confidence:.0%}): "
        f"{ranking.critical_difference:.3g}. Friedman: p = {ranking.p:.2g}. Kendall's W: {ranking.concordance:.2f}.",
        box=SIMPLE_HEAD,
        title_justify="left",
    )
    table.caption_justify = "left"
    for name in ("method", "mean rank", "not told apart"):
        table.add_column(name)
    for method, rank in zip(ranking.methods, ranking.ranks, strict=True):
        table.add_row(escape(method), f"{rank:.2f}", " ".join(_letters(ranking.cliques, method)))
    return table


def _letters(cliques: Iterable[tuple[str, ...]], method: str) -> list[str]:
    names = (f"{letter}{turn or ''}" for turn in itertools.count() for letter in ascii_lowercase)
    return [name for name, clique in zip(names, cliques, strict=False) if method in clique]


def _matrix(where: str, pairs: dict[tuple[str, str], Agreement]) -> Table:
    metrics = sorted({metric for pair in pairs for metric in pair})
    table = Table(
        title=escape(f"{where}: do metrics rank methods alike?"),
        caption="Kendall's tau-b of the methods' mean ranks; in brackets on one image, averaged, and its interval.",
        box=SIMPLE_HEAD,
        title_justify="left",
    )
    table.caption_justify = "left"
    table.add_column("")
    for metric in metrics[1:]:
        table.add_column(escape(metric))
    for first in metrics[:-1]:
        cells = [pairs.get((first, second)) for second in metrics[1:]]
        table.add_row(escape(first), *("" if each is None else _cell(each) for each in cells))
    return table


def _cell(each: Agreement) -> str:
    image = each.kendall_per_image
    return f"{each.kendall:z.2f} ({image.value:z.2f}: {image.low:z.2f} to {image.high:z.2f})"


def _where(model: str, subset: str) -> str:
    return model if subset == "all" else f"{model}, {subset}"
