"""No text of a figure leaves it or meets another text or picture, at every width and number of cells."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from attribkit import AttribkitError
from attribkit.figures import VENUES, Cell, _page, grid
from attribkit.figures._page import wrap

NAMES = ("Grad-CAM++", "Integrated gradients", "Attention rollout", "attribkit_plugin_method", "RISE")
TITLES = ("Egyptian cat\n93%", "soft-coated wheaten terrier", "dog", "a_class_with_a_name_of_one_long_word")
CAPTION = "Grad-CAM++: Chattopadhyay et al., WACV 2018, eqs. 5 and 19\nRISE (masks=100): Petsiuk et al., BMVC 2018"
TOLERANCE = 0.012  # inches


def cells(rows, columns, *, signed=True, titles=False):
    picture = np.zeros((20, 30, 3), np.uint8)
    maps = [torch.rand(20, 30), torch.randn(20, 30) if signed else torch.rand(20, 30)]
    return [
        [
            Cell(picture, maps[j % 2] if j or columns == 1 else None, title="hit" if titles else "")
            for j in range(columns)
        ]
        for _ in range(rows)
    ]


def boxes(figure):
    """The extents in inches of all texts with content and all axes."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [figure._supxlabel]
    for ax in figure.axes:
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
    extents = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]
    axes = [(f"axes {i}", ax.get_window_extent(renderer)) for i, ax in enumerate(figure.axes)]
    return [(name, box.extents / figure.dpi) for name, box in extents + axes]


def overlap(first, second):
    """The smaller side of the intersection of two extents, in inches; negative if they are apart."""
    sides = [min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1)]
    return min(sides)


def check(figure):
    width, height = figure.get_size_inches()
    extents = boxes(figure)
    for name, (left, bottom, right, top) in extents:
        assert left >= -TOLERANCE, name
        assert bottom >= -TOLERANCE, name
        assert right <= width + TOLERANCE, name
        assert top <= height + TOLERANCE, name
    for (name, first), (other, second) in itertools.combinations(extents, 2):
        assert overlap(first, second) <= TOLERANCE, (name, other)


SIZES = [(1, 1), (1, 2), (2, 3), (1, 8), (4, 6), (8, 12)]


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_nothing_overlaps_at_the_width_of_a_venue(venue, rows, columns):
    names = [NAMES[i % len(NAMES)] for i in range(columns)]
    titles = [TITLES[i % len(TITLES)] for i in range(rows)]
    if VENUES[venue] < 4 and columns > 8:
        with pytest.raises(AttribkitError, match="is too narrow for 12 columns, whose cells would be 0"):
            grid(cells(rows, columns), row_titles=titles, column_titles=names, width=venue)
        return
    figure = grid(cells(rows, columns), row_titles=titles, column_titles=names, caption=CAPTION, width=venue)
    assert figure.get_size_inches()[0] == pytest.approx(VENUES[venue])
    check(figure)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("titles", [False, True])
def test_nothing_overlaps_at_the_default_size(rows, columns, titles):
    names = [NAMES[i % len(NAMES)] for i in range(columns)]
    drawn = cells(rows, columns, titles=titles, signed=columns > 2)
    check(grid(drawn, row_titles=TITLES[:rows], column_titles=names, caption=CAPTION))


def test_text_is_broken_at_spaces_and_hyphens_and_within_long_words():
    assert wrap("Integrated gradients", 0.7, 8) == "Integrated\ngradients"
    assert wrap("Grad-CAM", 0.4, 8) == "Grad-\nCAM"
    lines = wrap("abcdefghijklmnop", 0.4, 8).split("\n")
    assert "".join(line.removesuffix("-") for line in lines) == "abcdefghijklmnop"
    assert wrap("one two three four", 0.35, 8, lines=2).endswith("…")
    assert wrap("one", 5, 8) == "one"


def test_scales():
    picture = np.zeros((4, 4, 3), np.uint8)
    small, large = torch.full((4, 4), 1.0), torch.full((4, 4), 4.0)
    rows = [[Cell(picture, small), Cell(picture, large)], [Cell(picture, small), Cell(picture, small)]]

    def brightness(scale):
        axes = grid(rows, scale=scale).axes[:4]
        return [float(np.mean(ax.get_images()[0].get_array())) for ax in axes]

    each, row, shared = map(brightness, ("each", "row", "shared"))
    assert each[0] == each[1] == each[2] == each[3]
    assert row[0] < row[1] == row[2] == row[3] == each[0]
    assert shared[0] == shared[2] == shared[3] < shared[1] == each[0]
    with pytest.raises(AttribkitError, match="scale must be one of 'each', 'row', 'shared', got 'all'"):
        grid(rows, scale="all")


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf"), None.__class__])
def test_widths_that_are_not_lengths_are_refused(width):
    with pytest.raises(AttribkitError, match="width must be a positive number of inches or one of cvpr"):
        grid(cells(1, 2), width=width)


def test_unknown_venues_are_refused():
    with pytest.raises(AttribkitError, match=r"No width of a figure is named 'cvpr2'. Did you mean 'cvpr'\?"):
        grid(cells(1, 2), width="cvpr2")


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_savefig_writes_what_save_writes(ending, tmp_path):
    figure = grid(cells(1, 2))
    figure.save(tmp_path / f"a.{ending}")
    figure.savefig(tmp_path / f"b.{ending}")
    written = (tmp_path / f"a.{ending}").read_bytes()
    assert written == (tmp_path / f"b.{ending}").read_bytes()
    assert b"attribkit" in written
    assert b"/Type3" not in written


def test_notebooks_show_figures():
    assert grid(cells(1, 2))._repr_png_().startswith(b"\x89PNG")


def test_metadata_states_the_caption(tmp_path):
    grid(cells(1, 2), caption="the caption").savefig(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["Description"] == "the caption"
    grid(cells(1, 2), caption="the caption").savefig(tmp_path / "a.pdf")
    assert b"the caption" in (tmp_path / "a.pdf").read_bytes()


def test_a_grid_without_cells_or_with_rows_of_unequal_length_is_refused():
    for rows in ([], [[]], [cells(1, 2)[0], cells(1, 3)[0]]):
        with pytest.raises(AttribkitError, match="A grid needs rows of equally many cells, got "):
            grid(rows)


def test_long_titles_are_shortened_with_few_measurements(monkeypatch):
    measured = []
    width_of = _page.text_width.__wrapped__
    monkeypatch.setattr(_page, "text_width", lambda text, size: measured.append(text) or width_of(text, size))
    assert wrap("x" * 4000, 0.5, 8, lines=3).endswith("…")
    assert len(measured) < 200
