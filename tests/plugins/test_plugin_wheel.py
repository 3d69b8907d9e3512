"""The plugins in plugins/ as a stranger's: wheels, installed into another environment, found by their entry points."""

import importlib.util
import json
import os
import re
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from torch import nn

import attribkit
from attribkit import Explainer
from attribkit._targets.logits import ClassLogit
from attribkit.testing import METHOD_CHECKS, tiny_cnn

PLUGINS = Path(attribkit.__file__).parents[1] / "plugins"
PLUGIN = PLUGINS / "attribkit-blurig"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment of its own that sees this one's packages, but has only the plugins' wheels installed."""
    folder = tmp_path_factory.mktemp("plugin")
    for name in ("attribkit-blurig", "attribkit-road"):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PLUGINS / name]
        subprocess.run(command, check=True, capture_output=True)
    wheels = list(folder.glob("*.whl"))
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    seen = [*site.getsitepackages(), str(Path(attribkit.__file__).parents[1])]
    purelib.joinpath("outside.pth").write_text("\n".join(seen))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        *wheels,
    ]
    subprocess.run(install, check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_it_is_found_by_its_entry_point(environment):
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ATTRIBKIT_PLUGINS")}
    done = subprocess.run(
        [environment, "-m", "attribkit", "methods", "--json"], capture_output=True, text=True, check=True, env=clean
    )
    (row,) = [row for row in json.loads(done.stdout) if row["name"] == "blurig"]
    assert row["plugin"] == "attribkit-blurig"
    assert row["options"] == {"max_sigma": "50.0", "steps": "20"}
    none = {**clean, "ATTRIBKIT_PLUGINS": "none"}
    done = subprocess.run(
        [environment, "-m", "attribkit", "methods", "--json"], capture_output=True, text=True, check=True, env=none
    )
    assert "blurig" not in done.stdout


@pytest.mark.slow
def test_an_imputer_is_found_by_its_name(environment):
    code = """
import torch
from attribkit import Explainer, Metric, registry
from attribkit.testing import tiny_cnn
made = registry.make("single_deletion", Metric, substrate="noisy_linear")
explainer, x = Explainer(tiny_cnn()), torch.randn(1, 3, 16, 16)
attribution = explainer.attribute(x, "saliency")
for metric in (made, "road"):
    print(made.substrate, float(explainer.evaluate(attribution, metric)))
"""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ATTRIBKIT_PLUGINS")}
    done = subprocess.run([environment, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.startswith("NoisyLinear(noise=0.01, tolerance=0.0001, seed=0)")
    assert "nan" not in done.stdout


@pytest.fixture(scope="module")
def blurig():
    spec = importlib.util.spec_from_file_location("attribkit_blurig", PLUGIN / "attribkit_blurig.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BlurIG


def test_it_is_small():
    code = re.sub('""".*?"""', "", (PLUGIN / "attribkit_blurig.py").read_text(), flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 25


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.name)
def test_it_passes_the_conformance_suite(blurig, check):
    check(blurig(), tiny_cnn(), torch.randn(3, 3, 16, 16))


def test_its_scores_sum_to_what_focus_adds(blurig):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    x = torch.randn(2, 3, 16, 16)
    attribution = Explainer(model).attribute(x, blurig(steps=200, max_sigma=1000.0), target=3)
    blurred = x.mean((2, 3), keepdim=True).expand_as(x)
    with torch.no_grad():
        gap = ClassLogit(3)(model(x)) - ClassLogit(3)(model(blurred))
    torch.testing.assert_close(attribution.scores.sum((1, 2, 3)), gap, rtol=0, atol=0.005 * float(gap.abs().max()))
