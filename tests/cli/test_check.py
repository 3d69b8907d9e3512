"""`attribkit check`: a report for each class, exit code 1 for a failed check, 2 for an unknown name."""

import pytest
from typer.testing import CliRunner

from attribkit.cli import app

pytestmark = pytest.mark.filterwarnings("default")

METHOD = """
from dataclasses import dataclass
from attribkit import Method

@dataclass(frozen=True)
class Sided(Method):
    "A map, perhaps mirrored."
    name = "sided_{name}"
    source = "nobody"
    mirrored: bool = {mirrored}

    def __call__(self, model, x, target):
        scores = (x * model.gradient(x, target)).sum(1, keepdim=True)
        return scores.flip(3) if self.mirrored else scores
"""


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture
def file(tmp_path):
    def write(name, mirrored):
        path = tmp_path / f"{name}.py"
        path.write_text(METHOD.format(name=name, mirrored=mirrored))
        return path

    return write


def test_a_sound_method_of_a_file(file):
    output = run(file("sound", False))
    assert "Sided(mirrored=False)" in output
    assert "passed   position" in output
    assert "failed checks: 0" in output


def test_a_defect_is_named_with_what_to_do(file):
    output = run(file("broken", True), code=1)
    assert "failed   position" in output
    assert "the maps are mirrored left to right" in output
    assert "to fix:" in output
    assert "failed checks: 1" in output
    assert "failed checks: 0" in run(file("mended", True), "--option", "mirrored=False")


def test_expected_failures_are_listed_with_their_reason():
    assert "expected failure: the small networks do not have gates" in run("attention_gates")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gradcan"], "Did you mean 'gradcam'?"),
        (["models"], "provides model specs only"),
        (["saliency", "--option", "sample=2"], "No option of the checked classes is named 'sample'"),
        (["missing.py"], "does not exist"),
    ],
)
def test_bad_arguments(arguments, words):
    assert words in run(*arguments, code=2)
