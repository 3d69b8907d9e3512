"""Figures of benchmarks: what they show, and that no text overlaps another or leaves the figure."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from typer.testing import CliRunner

from attribkit import AttribkitError
from attribkit.benchmark import Summary, benchmark, read_configuration, summarise, write_figures, write_summary
from attribkit.benchmark._statistics.summary import Agreement, Estimate, MethodRanking, SummaryScore
from attribkit.cli import app
from attribkit.figures import VENUES, agreement, bars, rankings
from attribkit.figures._curves import CurvePanel, draw_curves

TOLERANCE = 0.012  # inches
LABELS = ("gradcam", "integrated_gradients", "a_plugin_method_with_a_very_long_name", "rise", "occlusion", "saliency")
METRICS = ("deletion", "insertion", "pointing_game", "a metric, with a long label and options")


def texts(figure):
    """The extents in inches of all texts with content."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    found = [figure._supxlabel, *(text for legend in figure.legends for text in legend.get_texts())]
    for ax in figure.axes:
        found += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        for axis, low, high in ((ax.xaxis, *sorted(ax.get_xlim())), (ax.yaxis, *sorted(ax.get_ylim()))):
            ticks = axis.get_major_ticks() if ax.axison else []
            found += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_visible()]
    return [(t.get_text(), t.get_window_extent(renderer).extents / figure.dpi) for t in found if t.get_text()]


def check(figure):
    width, height = figure.get_size_inches()
    extents = texts(figure)
    for name, (left, bottom, right, top) in extents:
        assert min(left, bottom) >= -TOLERANCE, name
        assert right <= width + TOLERANCE, name
        assert top <= height + TOLERANCE, name
    for (name, first), (other, second) in itertools.combinations(extents, 2):
        shared = min(min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1))
        assert shared <= TOLERANCE, (name, other)


def estimate(value, half=0.05):
    return Estimate(value, value - half, value + half, "BCa", 20, 20)


def score(model, metric, method, value, **changes):
    role = "control" if method == "random" else "method"
    fields = {
        "model": model,
        "subset": "all",
        "kind": "faithfulness",
        "metric": metric,
        "higher_is_better": metric != "deletion",
        "statistic": "mean",
        "method": method,
        "inverted": False,
        "role": role,
        "estimate": estimate(value),
        "best": False,
    }
    return SummaryScore(**(fields | changes))


def ranking(model, metric, methods, ranks):
    return MethodRanking(
        model,
        "all",
        metric,
        tuple(methods),
        tuple(ranks),
        20,
        9.0,
        0.01,
        0.5,
        1.2,
        (tuple(methods[:2]), (methods[-1],)),
    )


def summary(models=("zoo:cnn", "zoo:vit"), metrics=METRICS, methods=(*LABELS, "random"), seed=0):
    rng = np.random.default_rng(seed)
    scores = [score(*each, rng.uniform(-0.2, 1)) for each in itertools.product(models, metrics, methods)]
    ranks = [
        ranking(model, metric, methods, np.sort(rng.uniform(1, len(methods), len(methods))))
        for model, metric in itertools.product(models, metrics)
    ]
    agreements = [
        Agreement(model, "all", *pair, len(methods), *rng.uniform(-1, 1, 2), estimate(0.5), estimate(0.5))
        for model in models
        for pair in itertools.combinations(metrics, 2)
    ]
    return Summary(0.95, 1000, 0, None, {}, {}, tuple(scores), (), tuple(ranks), tuple(agreements), (), ())


@pytest.mark.parametrize("venue", VENUES)
def test_no_text_overlaps_at_the_width_of_a_venue(venue):
    three = summary(metrics=METRICS[:3])
    for drawn in (bars(three, width=venue), rankings(summary(), width=venue), agreement(summary(), width=venue)):
        assert drawn.get_size_inches()[0] == pytest.approx(VENUES[venue])
        check(drawn)
    points = np.linspace(0, 1, 9)
    panels = [CurvePanel(m, points, {n: np.random.default_rng(0).random((5, 9)) for n in LABELS}) for m in METRICS[:2]]
    check(draw_curves(panels, width=venue))


@pytest.mark.parametrize("methods", [2, 12])
def test_no_text_overlaps_for_few_and_many_methods(methods):
    names = [f"method {i}" for i in range(methods)]
    made = summary(models=("a",), metrics=METRICS[:2], methods=names)
    for drawn in (bars(made), rankings(made), agreement(made)):
        check(drawn)


def test_bars_have_the_lengths_and_the_intervals_of_the_scores():
    values = {"gradcam": 0.2, "rise": 0.7, "random": 0.4}
    made = summary()
    made = Summary(
        *(*vars(made).values(),)[:6], tuple(score("m", "insertion", *each) for each in values.items()), *((),) * 5
    )
    (ax,) = bars(made).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["RISE", "Random", "Grad-CAM"]  # best first
    assert [patch.get_width() for patch in ax.patches] == [0.7, 0.4, 0.2]
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [0.65, 0.75])


def test_undefined_scores_have_no_bar():
    scores = (score("m", "insertion", "rise", 0.5), score("m", "insertion", "gradcam", float("nan")))
    made = Summary(0.95, 1000, 0, None, {}, {}, scores, (), (), (), (), ())
    (ax,) = bars(made).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["RISE", "Grad-CAM"]
    assert len(ax.patches) == 1


def test_a_diagram_shows_the_ranks_in_proportion_and_joins_cliques():
    made = summary(models=("m",), metrics=("insertion",), methods=("gradcam", "rise", "saliency"))
    record = ranking("m", "insertion", ("gradcam", "rise", "saliency"), (1.25, 2.0, 2.75))
    (ax,) = rankings(Summary(*(*vars(made).values(),)[:8], (record,), (), (), ())).axes
    lines = [line.get_xdata() for line in ax.get_lines()]
    axis = lines[0]
    inch = (axis[1] - axis[0]) / 2
    assert [(x[0] - axis[0]) / inch + 1 for x in lines[-3:]] == pytest.approx([1.25, 2.0, 2.75])
    cliques = [x for line, x in zip(ax.get_lines(), lines, strict=True) if line.get_linewidth() == 2]
    assert len(cliques) == 1
    np.testing.assert_allclose((np.array(cliques[0]) - axis[0]) / inch + 1, [1.25, 2.0], atol=0.05 / inch)
    (difference,) = [x for line, x in zip(ax.get_lines(), lines, strict=True) if line.get_marker() == "|"]
    assert (difference[1] - difference[0]) / inch == pytest.approx(1.2)


def test_curves_leave_out_images_with_undefined_values_and_state_it():
    points = np.linspace(0, 1, 3)
    broken = np.ones((4, 3))
    broken[1, 2] = np.nan
    drawn = draw_curves(
        [CurvePanel("deletion", points, {"a": np.arange(12.0).reshape(4, 3), "b": broken})], confidence=0
    )
    np.testing.assert_allclose(drawn.axes[0].get_lines()[0].get_ydata(), [5, 6, 7])  # images 0, 2 and 3
    assert drawn.get_supxlabel() == "Means over 4 images (deletion: 3 of 4 images, the others are\nundefined)."


@pytest.mark.parametrize(
    ("draw", "options", "words"),
    [
        (bars, {"metrics": ["iou"]}, "does not have the metric 'iou'; it has deletion, insertion"),
        (bars, {"models": ["vgg"]}, "does not have the model 'vgg'; it has zoo:cnn, zoo:vit"),
        (bars, {"subset": "difficult"}, "does not have records of this kind for this subset"),
        (rankings, {"metrics": ["iou"]}, "does not have the metric 'iou'"),
        (agreement, {"metrics": ["deletion"]}, r"metrics must be at least two of deletion, .*, got \['deletion'\]"),
        (agreement, {"width": 1.5}, "A figure of 1.5 inches is too narrow for 4 metrics"),
        (bars, {"width": "cvpr2"}, "No width of a figure is named 'cvpr2'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, options, words):
    with pytest.raises(AttribkitError, match=words):
        draw(summary(), **options)


RUN = """
name = "figures"
output = "{folder}"
save_details = true
shard_size = 6
[data]
name = "scenes"
options = {{count = 6}}
[[models]]
name = "zoo:cnn"
[[methods]]
name = "gradcam"
[[methods]]
name = "saliency"
[[methods]]
name = "layercam"
[[metrics]]
name = "deletion"
options = {{steps = 4}}
[[metrics]]
name = "pointing_game"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.toml").write_text(RUN.format(folder=(folder / "out").as_posix()))
    write_summary(benchmark(read_configuration(folder / "run.toml")))
    return folder / "out"


def test_the_command_writes_all_figures_of_a_run(run, tmp_path):
    shown = CliRunner().invoke(app, ["figures", str(run), "-o", str(tmp_path / "a"), "--width", "ieee"])
    assert shown.exit_code == 0, shown.output
    names = ["agreement", "curves-zoo-cnn", "rankings-zoo-cnn", "scores-faithfulness", "scores-localization", "tables"]
    assert sorted(path.stem for path in (tmp_path / "a").iterdir()) == names
    write_figures(run, tmp_path / "b", width="ieee")
    assert (tmp_path / "a" / "tables.tex").read_text() == (tmp_path / "b" / "tables.tex").read_text()
    for name in names[:-1]:
        assert (tmp_path / "a" / f"{name}.pdf").read_bytes() == (tmp_path / "b" / f"{name}.pdf").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "does not contain a finished benchmark (summary.json is missing): pass the output folder"),
        (["RUN", "--format", "docx"], "does not have a supported file extension"),
        (["RUN", "--width", "-1"], "width must be a positive number of inches"),
    ],
)
def test_folders_and_options_that_do_not_fit_are_refused(run, tmp_path, arguments, words):
    arguments = [str(run) if each == "RUN" else each for each in arguments]
    shown = CliRunner().invoke(app, ["figures", *arguments, "-o", str(tmp_path / "figures")])
    assert shown.exit_code == 2
    assert words in " ".join(shown.output.split())
    assert not (tmp_path / "figures").exists()


def test_rankings_that_do_not_fit_are_refused():
    for width in (1, 1.5, 2):
        with pytest.raises(AttribkitError, match="is too narrow for 7 methods, whose ranks would be"):
            rankings(summary(models=("m",)), width=width)


def test_a_critical_difference_beyond_the_figure_has_one_mark():
    made = summary(models=("m",), metrics=("insertion",), methods=("gradcam", "rise", "saliency"))
    record = replace(made.rankings[0], critical_difference=10.5)
    (ax,) = rankings(replace(made, rankings=(record,))).axes
    (bar,) = [line for line in ax.get_lines() if line.get_marker() == "|"]
    assert bar.get_markevery() == [0]


def test_models_and_methods_with_similar_names_have_figures_and_curves_of_their_own(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    for path in (copied / "rows").rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        named = [name.replace("layercam", "Grad-CAM") for name in table["method"].to_pylist()]
        others = table.set_column(
            table.schema.get_field_index("model"), table.schema.field("model"), pa.array(["zoo cnn"] * len(named))
        )
        both = pa.concat_tables([table, others])
        both = both.set_column(both.schema.get_field_index("method"), both.schema.field("method"), pa.array(2 * named))
        pq.write_table(both, path)
    tables = [
        pq.ParquetFile(path).read().replace_schema_metadata(None) for path in (copied / "rows").rglob("*.parquet")
    ]
    summarise(pa.concat_tables(tables), resamples=100).save(copied / "summary.json")
    paths, _ = write_figures(copied, tmp_path / "figures", suffix=".svg")
    names = {each.stem for each in paths}
    assert {"curves-zoo-cnn", "curves-zoo-cnn-2", "rankings-zoo-cnn", "rankings-zoo-cnn-2"} <= names
    drawn = (tmp_path / "figures" / "curves-zoo-cnn.svg").read_text()
    assert ">gradcam<" in drawn
    assert ">Grad-CAM<" in drawn
