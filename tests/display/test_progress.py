"""Progress: shown by what takes long, silent on request, and without an influence on results."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

from attribkit import Explainer, InvalidInput, cam_head, registry, train_head
from attribkit._display import progress
from attribkit.benchmark import benchmark, example

IS_WINDOWS = sys.platform == "win32"
START = """
import itertools, sys, types, warnings
warnings.simplefilter("error")
from attribkit._display import progress
from attribkit._display.progress import progress_shown, track
progress.time = types.SimpleNamespace(monotonic=itertools.count(0, 3).__next__)  # each call is three seconds later
"""
LOOP = "list(track(range(50), 'things'))\n"
NOTEBOOK = """
import sys, types
sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython"].get_ipython = lambda: object()
sys.modules["ipywidgets"] = None  # not installed
"""


def run(code, **options):
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, text=True, env=environment, **{"stderr": subprocess.PIPE, **options}
    )


@pytest.fixture
def shown(monkeypatch):
    """The names of the loops that show their progress, if every loop takes long."""
    names = []

    def open_bar(what, total):
        if progress._scope.get().shown:
            names.append(what)
        return tqdm(total=total, disable=True)

    monkeypatch.setattr(progress, "open_bar", open_bar)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr(progress, "_INNER_DELAY", 0.0)
    return names


@pytest.fixture
def images():
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


LOOPS = {
    "occlusion": "perturbed images",
    "rise": "blocks of masks",
    "scorecam": "perturbed images",
    "ablationcam": "images",
    "integrated_gradients": "perturbed images",
    "smoothgrad": "perturbed images",
}


@pytest.mark.parametrize("method", LOOPS)
def test_methods_of_many_forwards_show_their_progress(method, cnn, images, shown):
    options = {"rise": {"masks": 200}}.get(method, {})
    Explainer(cnn).attribute(images, method, **options)
    assert LOOPS[method] in shown


def test_many_images_show_their_progress(cnn, images, shown):
    Explainer(cnn, batch_size=1).attribute(images, "gradcam")
    assert "images" in shown


def test_comparisons_and_measurements_show_their_progress(cnn, images, shown):
    explainer = Explainer(cnn)
    maps = explainer.compare(images, ["gradcam", "saliency"])
    assert "maps" in shown
    explainer.measure(maps, ["sparseness", "complexity"])
    assert "metrics" in shown


def test_visualizations_show_their_progress(cnn, shown):
    Explainer(cnn).visualize(0, size=32, steps=3)
    assert "activation_maximization" in shown


def test_benchmarks_show_their_progress_unless_told_otherwise(tmp_path, shown):
    text = example().replace("count = 16", "count = 2").replace("shard_size = 8", "shard_size = 1")
    text = f"controls = false\noracle = false\n{text.partition('[[metrics]]')[0]}[[metrics]]\nname = 'sparseness'\n"
    for name, arguments in (("a", {}), ("b", {"show_progress": False})):
        (tmp_path / "run.toml").write_text(text.replace("runs/first-look", (tmp_path / name).as_posix()))
        benchmark(tmp_path / "run.toml", **arguments)
        assert ("shards" in shown) == (not arguments)
        shown.clear()


def test_training_shows_its_progress_unless_told_otherwise(cnn, images, shown):
    batches = [(images, torch.tensor([0, 1]))] * 2
    train_head(cam_head(cnn, 2), batches, epochs=1)
    assert shown == ["batches of epoch 1/1"]
    shown.clear()
    train_head(cam_head(cnn, 2), batches, epochs=1, show_progress=False)
    assert shown == []


def test_an_explainer_without_progress_is_silent(cnn, images, shown):
    explainer = Explainer(cnn, show_progress=False)
    maps = explainer.compare(images, ["occlusion", "saliency"])
    explainer.measure(maps, ["deletion"])
    explainer.metric_session(images)(registry.make("max_sensitivity", registry.metrics()["max_sensitivity"]), maps)
    explainer.visualize(0, size=32, steps=2)
    explainer.receptive_field(x=images)
    assert shown == []


def test_show_progress_is_a_bool(cnn):
    with pytest.raises(InvalidInput, match="show_progress must be True or False, got 'no'"):
        Explainer(cnn, show_progress="no")


def test_progress_does_not_change_results(cnn, images, monkeypatch):
    expected = Explainer(cnn, show_progress=False).attribute(images, "rise", masks=200)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr(progress, "open_bar", lambda what, total: tqdm(total=total, disable=False, file=sys.stdout))
    attribution = Explainer(cnn).attribute(images, "rise", masks=200)
    assert torch.equal(attribution.scores, expected.scores)
    assert attribution.notes == expected.notes


def test_an_outer_context_silences_inner_ones(shown):
    with progress.progress_shown(False), progress.progress_shown(True):
        list(progress.track(range(3), "inner"))
    list(progress.track(range(3), "outer"))
    assert shown == ["outer"]


def test_short_loops_show_nothing():
    assert run(START.replace("count(0, 3)", "count(0, 0)") + LOOP).stderr == ""


def test_a_loop_in_a_shown_loop_waits_longer(shown, monkeypatch):
    monkeypatch.setattr(progress, "_INNER_DELAY", 3600.0)
    for _ in progress.track(range(3), "outer"):
        list(progress.track(range(3), "inner"))
    assert shown == ["inner", "outer"]  # the first inner loop is shown before its outer loop has finished an item


def test_a_log_gets_a_line():
    text = run(START + LOOP).stderr
    (line,) = text.splitlines()
    assert line.startswith("things:   2% 1/50 [00:03<")
    assert "\r" not in text


def test_a_log_gets_one_line_in_thirty_seconds_from_all_loops(monkeypatch, capsys):
    clock = SimpleNamespace(seconds=0, monotonic=lambda: clock.seconds)
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress._LogLines, "_last", None)
    one, other = (progress._LogLines(desc=name, total=9, disable=False) for name in ("one", "other"))
    for seconds, bar in ((0, one), (10, other), (29, one), (30, other), (45, one), (59, other), (61, one)):
        clock.seconds = seconds
        bar.refresh()
        bar.n += 1
    one.close()
    assert [line.split("[")[0] for line in capsys.readouterr().err.splitlines()] == [
        "one:   0% 0/9 ",
        "other:  11% 1/9 ",
        "one:  33% 3/9 ",
    ]


def test_silence_in_a_log():
    assert run(START + "with progress_shown(False):\n    " + LOOP).stderr == ""


STREAMS = {
    "none": "sys.stderr = None",
    "closed": "sys.stderr = open(os.devnull, 'w')\nsys.stderr.close()",
    "broken pipe": "ends = os.pipe()\nos.close(ends[0])\nsys.stderr = open(ends[1], 'w')",
    "minimal": "sys.stderr = types.SimpleNamespace(write=len, flush=lambda: None)",
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_streams_that_cannot_be_written_to_do_not_matter(stream):
    run(f"{START}import os\n{stream}\n{LOOP}sys.stderr, kept = sys.__stderr__, sys.stderr\nos._exit(0)")


@pytest.mark.skipif(IS_WINDOWS, reason="pseudo-terminals are part of POSIX")
def test_a_terminal_shows_a_bar_that_disappears():
    text = in_terminal(START + LOOP)
    first, *_, last = text.split("\r")
    assert (first, last) == ("", "")
    assert "things:" in text
    assert "\n" not in text


@pytest.mark.skipif(IS_WINDOWS, reason="pseudo-terminals are part of POSIX")
def test_bars_of_loops_that_an_error_interrupts_disappear():
    code = """
try:
    with progress_shown(True):
        things = track(range(9), "things")
        for thing in things:
            if thing == 5:
                raise ValueError
except ValueError:
    pass  # the loop is kept, as by the traceback of an error in a notebook
assert not progress.tqdm._instances
"""
    assert in_terminal(START + code).endswith("\r")


def in_terminal(code):
    """What a program writes to the standard error stream, if it is a terminal."""
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    run(code, stderr=theirs)
    os.set_blocking(ours, False)
    text = os.read(ours, 65536).decode()
    os.close(theirs)
    os.close(ours)
    return text


def test_notebooks_without_ipywidgets_get_lines_and_no_warning():
    assert run(NOTEBOOK + START + LOOP).stderr.startswith("things:   2% 1/50 ")
    silent = NOTEBOOK + START.replace('warnings.simplefilter("error")', 'warnings.simplefilter("always")')
    assert run(silent).stderr == ""


def test_warnings_of_the_user_are_shown():
    code = "import warnings\nbefore = list(warnings.filters)\n" + "from attribkit._display import progress\n"
    run(NOTEBOOK + code + "assert warnings.filters == before")


def test_a_loop_that_shows_nothing_makes_no_bar(monkeypatch):
    monkeypatch.setattr(progress, "tqdm", None)
    start = time.process_time()
    for _ in range(10_000):
        assert list(progress.track((1, 2), "pairs")) == [1, 2]
    print(f"{(time.process_time() - start) / 10_000 * 1e6:.1f} microseconds for a loop of two items")
