"""Installed plugins and the real command line: some are sound, some claim one name, and some are broken."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

METHOD = '''
from dataclasses import dataclass
from attribkit import Method, hookimpl

print("imported {module}")

@dataclass(frozen=True)
class {title}(Method):
    """Input times gradient."""

    name = "{name}"
    source = "me"

    def __call__(self, model, x, target):
        return {scores}

@hookimpl
def attribkit_methods():
    return [{title}]
'''


@pytest.fixture
def environment(tmp_path):
    """Lay out distributions as pip would; return the environment of a process that can import them."""
    product = "(x * model.gradient(x, target)).sum(1, keepdim=True)"
    modules = {f"attribkit_sound_{i}": (f"sound_{i}", product) for i in range(6)}
    modules |= {"attribkit_claim_a": ("claimed", product), "attribkit_claim_b": ("claimed", product)}
    modules |= {"attribkit_nonsense": ("nonsense", "'a string'")}
    for module, (name, scores) in modules.items():
        text = METHOD.format(module=module, title=module.title().replace("_", ""), name=name, scores=scores)
        put(tmp_path, module, text)
    put(tmp_path, "attribkit_broken", "raise RuntimeError('broken at import')")
    return os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "300"}


def put(folder, module, text):
    name = module.replace("_", "-")
    (folder / f"{module}.py").write_text(textwrap.dedent(text))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[attribkit]\n{name} = {module}\n")


def attribkit(environment, *arguments, options=()):
    command = [sys.executable, *options, "-m", "attribkit", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_help_imports_neither_plugins_nor_torch(environment):
    result = attribkit(environment, "--help", options=["-X", "importtime"])
    assert result.returncode == 0
    assert "imported" not in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert {"typer", "attribkit.cli"} <= imported
    assert not {"torch", "numpy", "timm", "attribkit_sound_0", "attribkit_broken"} & imported


def test_plugins_lists_each_with_its_state_and_reason(environment):
    result = attribkit(environment, "plugins", "--json")
    assert result.returncode == 0
    rows = {row["plugin"]: row for row in json.loads(result.stdout[result.stdout.index("[\n") :])}
    assert all(rows[f"attribkit-sound-{i}"]["state"] == "loaded" for i in range(6))
    assert rows["attribkit-claim-a"]["state"] == "loaded"
    assert rows["attribkit-claim-b"]["state"] == "skipped"
    assert "both named 'claimed'" in rows["attribkit-claim-b"]["reason"]
    assert rows["attribkit-broken"]["reason"] == "RuntimeError: broken at import"


def test_sound_methods_work_beside_the_others(environment, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    methods = [word for name in ("sound_0", "claimed", "nonsense") for word in ("--method", name)]
    result = attribkit(environment, "explain", tmp_path / "x.png", *methods, "--output", tmp_path / "maps.npz")
    assert result.returncode == 1
    assert "'nonsense', AttribkitNonsense(), returned a str" in result.stderr
    assert "'attribkit-broken' was skipped" in result.stderr
    names = list(np.load(tmp_path / "maps.npz"))
    assert all(any(method in name for name in names) for method in ("sound_0", "claimed"))
    assert not any("nonsense" in name for name in names)


def test_a_skipped_plugin_does_not_pass_its_check(environment):
    result = attribkit(environment, "check", "attribkit-claim-b")
    assert result.returncode == 2
    assert "was skipped" in result.stderr
    assert "both named 'claimed'" in result.stderr
