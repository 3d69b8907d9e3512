"""The README and docs/comparison.md: their code runs, their commands exist, their numbers are the measured ones."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from attribkit import registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMPARISON = (ROOT / "docs" / "comparison.md").read_text()


def one_line(text):
    return " ".join(text.split())


def section(title):
    """A section of docs/comparison.md, on one line."""
    return one_line(COMPARISON.split(f"\n## {title}\n")[1].split("\n## ")[0])


def test_its_python_prints_the_output_below_it():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (expected,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {"__name__": "readme"})
    assert printed.getvalue() == expected


def test_the_python_of_the_comparison_runs_in_order():
    names = {"__name__": "comparison"}
    for block in re.findall(r"```python\n(.*?)```", COMPARISON, re.DOTALL):
        exec(block, names)
    assert names["deletion"].values.shape == (3, 2)
    assert names["attribution"].scores.shape == (2, 3, 128, 128)


def test_its_commands_exist():
    from attribkit.cli import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    blocks = "".join(README.split("```")[1::2])
    assert {"explain", "methods"} <= set(re.findall(r"^attribkit (\w+)", blocks, re.MULTILINE)) <= commands
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets


def test_every_method_and_metric_is_in_the_comparison():
    for cls in [*registry.methods().values(), *registry.metrics().values()]:
        if registry.plugin_of(cls).distribution == "attribkit":
            assert f"`{cls.name}`" in COMPARISON, cls.name


@pytest.mark.parametrize(
    ("text", "folder"), [(README, ROOT), (COMPARISON, ROOT / "docs")], ids=["README", "comparison"]
)
def test_the_files_that_it_names_exist(text, folder):
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
        assert (folder / link).exists(), link
    for path in re.findall(r"`(?:python )?((?:plugins|tests|benchmarks)/[\w./-]*)[^`]*`", text):
        assert (ROOT / path).exists(), path


def test_its_counts_are_those_of_the_registry():
    counts = [
        sum(registry.plugin_of(cls).distribution == "attribkit" for cls in classes.values())
        for classes in (registry.methods(), registry.metrics())
    ]
    assert f"heatmaps by {counts[0]} methods" in README
    assert f"{counts[1]} metrics with presets" in README


@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_its_accuracies_are_the_measured_ones(model):
    measured = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text())["result"]["held_out_accuracy"]
    assert f"{'CNN' if model == 'cnn' else 'ViT'} {measured[model]:.1%}" in section("Further tools")


def test_its_costs_are_the_measured_ones():
    result = json.loads((ROOT / "benchmarks" / "results" / "speed_resnet50.json").read_text())["result"]
    times, memory = result["time_in_forwards"], result["peak_memory_in_mib"]
    peers = set(times) - {"forward", "attribkit"}
    costs = (
        f"{times['attribkit']:.2f} plain forwards and "
        f"{memory['attribkit'] / memory['forward']:.2f} times a forward's peak memory; the next best peers"
    )
    next_best = [min(each[peer] for peer in peers) / each["forward"] for each in (times, memory)]
    assert f"{costs} {next_best[0]:.2f} and {next_best[1]:.2f}" in one_line(README)
    assert f"{costs}: {next_best[0]:.2f} and {next_best[1]:.2f}" in section("Costs")


def test_its_costs_of_several_are_the_measured_ones():
    folder = ROOT / "benchmarks" / "results"
    shared, perturbed = (
        json.loads((folder / f"speed_methods_{model}_batch1.json").read_text())["result"]["time_ratio"]
        for model in ("resnet50", "resnet18")
    )
    ratios = {name: each["ratio"] for name, each in [*shared.items(), *perturbed.items()]}
    for words, name in [
        ("seven maps of one image", "seven maps / forward"),
        ("guided Grad-CAM", "nine maps / forward"),
        ("Grad-CAM of ten classes", "Grad-CAM of 10 classes / forward"),
        ("integrated gradients", "integrated gradients, 50 steps / 50 gradients"),
        ("occlusion", "occlusion / 170 forwards"),
        ("RISE", "RISE, 256 masks / 257 forwards"),
        ("Score-CAM", "Score-CAM / 513 forwards"),
    ]:
        assert f"{words} {ratios[name]:.2f}" in section("Costs"), name


def test_its_costs_of_metrics_are_the_measured_ones():
    result = json.loads((ROOT / "benchmarks" / "results" / "speed_metrics_resnet50.json").read_text())["result"]
    row = section("Costs")
    assert (result["arguments"]["maps"], result["arguments"]["steps"]) == (5, 28)
    assert f"28 steps: {result['time_in_forwards']:.2f} of the bare forwards" in row
    assert f"the model's own time is {result['time_but_for_the_model_in_forwards']:.1%}" in row
    peers = result["time_in_forwards_of_few_steps"]
    assert f"torch-cam takes {peers['torchcam']:.2f} and Quantus {peers['quantus']:.2f}" in row


def test_its_accuracies_of_the_cam_head_are_the_measured_ones():
    result = json.loads((ROOT / "benchmarks" / "results" / "cam_head_cifar10.json").read_text())["result"]
    (body,) = result["bodies"].values()
    row = next(line for line in COMPARISON.splitlines() if line.startswith("| CAM heads |"))
    assert f"{body['fixed']['test_accuracy']:.1%} fixed, {body['finetune']['test_accuracy']:.1%} fine-tuned" in row


def test_its_largest_difference_from_the_peers_is_the_measured_one():
    rows = json.loads((ROOT / "benchmarks" / "results" / "parity.json").read_text())["result"]["rows"]
    cells = [[cell["difference"] for cell in row["cells"].values() if "difference" in cell] for row in rows]
    for text in (one_line(README), section("Agreement with other libraries")):
        assert f"{sum(map(bool, cells))} of {len(cells)} methods agree" in text
        assert f"within {max(max(each) for each in cells if each):.0e}".replace("e-0", "e-") in text
