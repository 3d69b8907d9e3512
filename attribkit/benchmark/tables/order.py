"""Who comes before whom, and whether metrics agree on it, in the terminal."""

import itertools
from collections.abc import Iterable
from string import ascii_lowercase

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from attribkit.benchmark.statistics.summary import Agreement, Ranking, Summary


def ranking_tables(summary: Summary) -> list[Table]:
    """Mean ranks for each model and set of images; methods that share a letter in a metric's column are one clique."""
    groups = itertools.groupby(summary.rankings, lambda each: (each.model, each.subset))
    return [_ranks(_where(*key), list(group), summary.confidence) for key, group in groups]


def agreement_tables(summary: Summary) -> list[Table]:
    """A matrix of metrics for each model and set of images: tau-b of the methods' mean ranks, and on one image."""
    groups = itertools.groupby(summary.agreements, lambda each: (each.model, each.subset))
    return [_matrix(_where(*key), {(each.first, each.second): each for each in group}) for key, group in groups]


def _ranks(where: str, rankings: list[Ranking], confidence: float) -> Table:
    fewest, most = min(ranking.images for ranking in rankings), max(ranking.images for ranking in rankings)
    over = f"{most} images" if fewest == most else f"{fewest} to {most} images"
    table = _table(
        f"{where}: mean ranks",
        f"1 is the best; over {over}. Methods that share a letter in a column are not told apart (Friedman's test and "
        f"Nemenyi's critical difference, {confidence:.0%}).",
    )
    for heading in ("method", *(ranking.metric for ranking in rankings)):
        table.add_column(escape(heading))
    for method in sorted({method for ranking in rankings for method in ranking.methods}):
        table.add_row(escape(method), *(_rank(ranking, method) for ranking in rankings))
    table.add_section()
    table.add_row("critical difference", *(f"{ranking.critical_difference:.2f}" for ranking in rankings))
    table.add_row("Kendall's W", *(f"{ranking.concordance:.2f}" for ranking in rankings))
    return table


def _rank(ranking: Ranking, method: str) -> str:
    if method not in ranking.methods:
        return "-"
    rank = ranking.ranks[ranking.methods.index(method)]
    return " ".join([f"{rank:.2f}", *_letters(ranking.cliques, method)])


def _letters(cliques: Iterable[tuple[str, ...]], method: str) -> list[str]:
    names = (f"{letter}{turn or ''}" for turn in itertools.count() for letter in ascii_lowercase)
    return [name for name, clique in zip(names, cliques, strict=False) if method in clique]


def _matrix(where: str, pairs: dict[tuple[str, str], Agreement]) -> Table:
    metrics = sorted({metric for pair in pairs for metric in pair})
    table = _table(
        f"{where}: do metrics rank methods alike?",
        "Kendall's tau-b of the methods' mean ranks; in brackets on one image, averaged, and its interval.",
    )
    table.add_column("")
    for metric in metrics[1:]:
        table.add_column(escape(metric))
    for first in metrics[:-1]:
        cells = [pairs.get((first, second)) for second in metrics[1:]]
        table.add_row(escape(first), *("" if each is None else _cell(each) for each in cells))
    return table


def _table(title: str, caption: str) -> Table:
    table = Table(title=escape(title), caption=caption, box=SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    return table


def _cell(each: Agreement) -> str:
    image = each.kendall_per_image
    return f"{each.kendall:z.2f} ({image.value:z.2f}: {image.low:z.2f} to {image.high:z.2f})"


def _where(model: str, subset: str) -> str:
    return model if subset == "all" else f"{model}, {subset}"
