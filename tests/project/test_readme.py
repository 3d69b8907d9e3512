"""What the README says is so: its code runs, its commands exist, its numbers are those that were measured."""

import json
import re
from pathlib import Path

import pytest
import torch

from attribkit import registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_its_python_runs_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"x": torch.randn(1, 3, 64, 64), "__name__": "readme"}
    for block in blocks:
        exec(block.replace("pretrained=True", "pretrained=False"), names)
    assert names["heatmap"].shape == (1, 64, 64)
    assert names["attribution"].scores.shape == (1, 3, 64, 64)


def test_its_commands_exist():
    from attribkit.cli import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(re.findall(r"^attribkit (\w+)", README, re.MULTILINE)) <= commands
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets


def test_its_methods_and_files_are_there():
    for cls in [*registry.methods().values(), *registry.metrics().values()]:
        if registry.plugin_of(cls).distribution == "attribkit":
            assert cls.name in README or cls.name.replace("_", " ") in README
    for path in re.findall(r"\]\((?!http)([^)]+)\)|`((?:plugins|tests|benchmarks)/[\w./-]*)`", README):
        assert (ROOT / (path[0] or path[1]).split()[0]).exists(), path


@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_its_accuracies_are_the_measured_ones(model):
    measured = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text())["result"]["held_out_accuracy"]
    assert f"{measured[model]:.1%}" in README


def test_its_costs_are_the_measured_ones():
    result = json.loads((ROOT / "benchmarks" / "results" / "speed_resnet50.json").read_text())["result"]
    assert f"{result['time_in_forwards']['attribkit']:.2f} plain forwards" in README
    memory = result["peak_memory_in_mib"]
    assert f"{memory['attribkit'] / memory['forward']:.2f} times a forward's peak memory" in README


def test_its_costs_of_several_are_the_measured_ones():
    folder = ROOT / "benchmarks" / "results"
    shared, perturbed = (
        json.loads((folder / f"speed_methods_{model}_batch1.json").read_text())["result"]["time_ratio"]
        for model in ("resnet50", "resnet18")
    )
    row = next(line for line in README.splitlines() if line.startswith("| cost of several |"))
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
        assert f"{words} {ratios[name]:.2f}" in row, name


def test_its_costs_of_metrics_are_the_measured_ones():
    result = json.loads((ROOT / "benchmarks" / "results" / "speed_metrics_resnet50.json").read_text())["result"]
    row = next(line for line in README.splitlines() if line.startswith("| cost of metrics |"))
    assert (result["arguments"]["maps"], result["arguments"]["steps"]) == (5, 28)
    assert f"28 steps: {result['time_in_forwards']:.2f} of the bare forwards" in row
    assert f"the model's own time is {result['time_but_for_the_model_in_forwards']:.1%}" in row
    peers = result["time_in_forwards_of_few_steps"]
    assert f"torch-cam takes {peers['torchcam']:.2f} and Quantus {peers['quantus']:.2f}" in row


def test_its_accuracies_of_the_cam_head_are_the_measured_ones():
    result = json.loads((ROOT / "benchmarks" / "results" / "cam_head_cifar10.json").read_text())["result"]
    (body,) = result["bodies"].values()
    row = next(line for line in README.splitlines() if line.startswith("| CAM for models that have none |"))
    assert f"{body['fixed']['test_accuracy']:.1%} fixed, {body['finetune']['test_accuracy']:.1%} fine-tuned" in row


def test_its_largest_difference_from_the_peers_is_the_measured_one():
    rows = json.loads((ROOT / "benchmarks" / "results" / "parity.json").read_text())["result"]["rows"]
    cells = [[cell["difference"] for cell in row["cells"].values() if "difference" in cell] for row in rows]
    row = next(line for line in README.splitlines() if line.startswith("| equal to the peers |"))
    assert f"{sum(map(bool, cells))} of {len(cells)} methods" in row
    assert f"within {max(max(each) for each in cells if each):.0e}".replace("e-0", "e-") in row
