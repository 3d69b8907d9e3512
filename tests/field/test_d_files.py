"""Saved attributions, the shapes of an attribution, options, and plugins that misbehave."""

import csv
import io
import json
import os
import pickle
import re
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from annotated_types import Ge, Interval
from safetensors.torch import save, save_file
from torch import nn
from typer.testing import CliRunner

from attribkit import (
    AttribkitError,
    Attribution,
    ClassLogit,
    Complexity,
    Explainer,
    Imputer,
    Method,
    Probability,
    Visualizer,
    registry,
)
from attribkit._contracts.records import Recorded
from attribkit._core.annotations import Constraint
from attribkit._core.errors import InvalidInput, PluginWarning, UnreadableFile
from attribkit._core.substrates import FoldedBlur, GaussianBlur
from attribkit.benchmark._run import _quote_formulas
from attribkit.benchmark._tables.csv_files import FORMULA, csv_text, spreadsheet_text
from attribkit.cli import app
from attribkit.methods._gradcam import GradCAM
from attribkit.registry import _discovery as discovery
from attribkit.testing import model_state, tiny_cnn
from attribkit.testing._state import check_validated_options

pytestmark = pytest.mark.usefixtures("as_users_run")

SCORES, X = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 8, 8)
RECORD = {
    "target": {"name": "ClassLogit", "repr": "ClassLogit(index=1)", "fields": {"index": 1}},
    "method": {"name": "gradcam", "repr": "GradCAM()"},
    "notes": ["a note"],
}


def written(path, scores=SCORES, x=X, record=RECORD, version="1", **more):
    told = record if isinstance(record, str) else json.dumps(record)
    metadata = {"attribution": told} | ({} if version is None else {"attribkit": version})
    save_file({"scores": scores, "x": x, **more}, path, metadata=metadata)
    return path


def changed(**changes):
    return {**RECORD, **changes}


def target(name="ClassLogit", **fields):
    return changed(target={"name": name, "repr": "r", "fields": fields})


def test_the_file_of_these_tests_is_read(tmp_path):
    read = Attribution.load(written(tmp_path / "a.safetensors"))
    assert torch.equal(read.scores, SCORES)
    assert torch.equal(read.x, X)
    assert (read.target, read.method, read.notes) == (ClassLogit(1), Recorded("gradcam", "GradCAM()"), ("a note",))


DEEP = "[" * 100_000 + "]" * 100_000
DAMAGED = {
    "no version": {"version": None},
    "a version that is no number": {"version": "one"},
    "version 0": {"version": "0"},
    "a version of many digits": {"version": "1" * 5000},
    "a version in other digits": {"version": "\u0661"},
    "deep JSON": {"record": DEEP},
    "deep JSON in the notes": {"record": json.dumps(RECORD).replace('["a note"]', DEEP)},
    "no JSON": {"record": "{"},
    "no object": {"record": "[]"},
    "null": {"record": "null"},
    "a field more": {"record": changed(device="cpu")},
    "a field less": {"record": {name: RECORD[name] for name in ("target", "method")}},
    "notes as text": {"record": changed(notes="abc")},
    "notes as numbers": {"record": changed(notes=[1])},
    "notes as an object": {"record": changed(notes={"a": 1})},
    "a method as text": {"record": changed(method="gradcam")},
    "a method without a repr": {"record": changed(method={"name": "gradcam"})},
    "a method with options": {"record": changed(method={"name": "gradcam", "repr": "r", "options": {}})},
    "a method whose name is a list": {"record": changed(method={"name": ["gradcam"], "repr": "r"})},
    "a target as null": {"record": changed(target=None)},
    "a target whose name is a list": {"record": changed(target={"name": [], "repr": "r", "fields": {}})},
    "a target whose name is an object": {"record": changed(target={"name": {}, "repr": "r"})},
    "a target with an unknown field": {"record": target(index=1, weight=2)},
    "a target without its field": {"record": target()},
    "fields as a list": {"record": changed(target={"name": "ClassLogit", "repr": "r", "fields": [1]})},
    "a fractional class": {"record": target(index=1.5)},
    "a boolean class": {"record": target(index=True)},
    "NaN as a class": {"record": json.dumps(target(index=1)).replace('"index": 1', '"index": NaN')},
    "classes in classes": {"record": target(index=[[1], [2]])},
    "a huge class": {"record": target(index=10**30)},
    "a class of 5000 digits": {"record": json.dumps(target(index=1)).replace('"index": 1', '"index": ' + "9" * 5000)},
    "classes of three images": {"record": target(index=[1, 2, 3])},
    "a contrast of two counts": {"record": target("Contrast", index=[1, 2], against=[1, 2, 3])},
    "an unknown target with fields": {"record": target("Unheard", index=1)},
    "scores of another batch": {"scores": torch.rand(3, 1, 4, 4)},
    "one map for two images": {"scores": torch.rand(1, 1, 4, 4)},
    "scores of another number of axes": {"scores": torch.rand(2, 1, 4, 4, 4)},
    "scores without channels": {"scores": torch.rand(2, 4)},
    "scores of no channel": {"scores": torch.rand(2, 0, 4, 4)},
    "scores of no cell": {"scores": torch.rand(2, 1, 4, 0)},
    "one score": {"scores": torch.rand(())},
    "whole numbers": {"scores": torch.ones(2, 1, 4, 4, dtype=torch.int64)},
    "truth values": {"scores": torch.ones(2, 1, 4, 4, dtype=torch.bool)},
    "eight bits": {"scores": torch.rand(2, 1, 4, 4).to(torch.float8_e4m3fn)},
    "complex scores": {"scores": torch.rand(2, 1, 4, 4, dtype=torch.complex64)},
    "images of whole numbers": {"x": torch.ones(2, 3, 8, 8, dtype=torch.uint8)},
    "axes of a number": {"record": changed(axes=4)},
    "axes that are null": {"record": changed(axes=None)},
    "axes without a batch": {"record": changed(axes="chw")},
    "axes of one more": {"record": changed(axes="btchw")},
    "axes of one less": {"record": changed(axes="bhc")},
    "axes that scores lack": {"record": changed(axes="bhwc"), "scores": torch.rand(2, 1, 4)},
    "axes without channels": {"record": changed(axes="bhw")},
    "a third tensor": {"more": torch.ones(1)},
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_attribution_is_an_unreadable_file(tmp_path, how):
    path = written(tmp_path / "a.safetensors", **DAMAGED[how])
    with pytest.raises(
        UnreadableFile, match=r"a\.safetensors' is not a saved attribution \(.+\): pass a file written by"
    ):
        Attribution.load(path)


@pytest.mark.parametrize("lacking", ["scores", "x"])
def test_a_tensor_is_missing(tmp_path, lacking):
    tensors = {name: tensor for name, tensor in {"scores": SCORES, "x": X}.items() if name != lacking}
    save_file(tensors, tmp_path / "a", metadata={"attribkit": "1", "attribution": json.dumps(RECORD)})
    with pytest.raises(UnreadableFile, match="tensors scores, x"):
        Attribution.load(tmp_path / "a")


def test_a_newer_format_is_told(tmp_path):
    with pytest.raises(
        UnreadableFile, match=r"newer attribkit \(format 2; this version reads up to 1\)\. Update attribkit"
    ):
        Attribution.load(written(tmp_path / "a", version="2", record={"of": "tomorrow"}))


def header(content):
    return struct.pack("<Q", len(content)) + content


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00" * 7, b"PK\x03\x04", struct.pack("<Q", 2**63), header(b"{}"), header(b"\xff\xfe not UTF-8"),
        header(b'{"__metadata__":{"attribkit":1}}'), header(b'{"a":' * 5000 + b"1" + b"}" * 5000),
        header(b'{"scores":{"dtype":"F32","shape":[2,1,4,4],"data_offsets":[0,99999]}}'),
    ],
    ids=range(9),
)  # fmt: skip
def test_bytes_that_are_no_attribution(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UnreadableFile, match="is not a saved attribution"):
        Attribution.load(tmp_path / "a")


def test_a_file_that_is_cut_off_anywhere_is_an_unreadable_file(tmp_path):
    whole = written(tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(UnreadableFile):
            Attribution.load(tmp_path / "cut")


def test_bytes_changed_at_random_give_an_attribution_or_an_unreadable_file(tmp_path):
    whole = written(tmp_path / "whole").read_bytes()
    generator = torch.Generator().manual_seed(0)
    end = 8 + struct.unpack("<Q", whole[:8])[0]  # of the header; behind it, any bytes are numbers
    unreadable = 0
    for _ in range(300):
        broken = bytearray(whole)
        for place in torch.randint(end, (2,), generator=generator).tolist():
            broken[place] = int(torch.randint(256, (), generator=generator))
        (tmp_path / "broken").write_bytes(bytes(broken))
        try:
            read = Attribution.load(tmp_path / "broken")
        except UnreadableFile:
            unreadable += 1
        else:
            repr(read)
            read.heatmap()
    assert unreadable > 150


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", "", "a\0b", None, 3, b"bytes"):
        with pytest.raises(UnreadableFile, match="is not a saved attribution"):
            Attribution.load(path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("attribkit._core.serialization.safe_open", refuse)
    with pytest.raises(UnreadableFile, match="Permission denied"):
        Attribution.load(written(tmp_path / "a"))


def test_a_device_that_is_not_there(tmp_path):
    for device in ("cuda:99", "nonsense", "meta"):
        with pytest.raises(InvalidInput, match=f"device='{device}' cannot be used"):
            Attribution.load(written(tmp_path / "a"), device=device)


def test_values_that_are_not_finite_are_noted_once(tmp_path):
    scores, x = SCORES.clone(), X.clone()
    scores[1, 0, 2, 3], x[0, 0, 0, 0] = torch.nan, torch.inf
    read = Attribution.load(written(tmp_path / "a", scores, x))
    assert read.notes == (
        "a note",
        "the scores in the file have NaN or infinite values for images [1]: ignore their maps",
        "the images in the file have NaN or infinite values for images [0]: ignore their maps",
    )
    read.save(tmp_path / "b")
    assert Attribution.load(tmp_path / "b").notes == read.notes


def test_text_in_a_file_moves_no_cursor(tmp_path):
    record = changed(notes=["\x1b[2Jgone", "\ud800"], method={"name": "\x1b]0;title\x07", "repr": "a\u202eb\rc"})
    read = Attribution.load(written(tmp_path / "a", record=record))
    assert read.notes == (r"\x1b[2Jgone", r"\ud800")
    assert (read.method.name, read.method.text) == (r"\x1b]0;title\x07", r"a\u202eb\rc")
    repr(read).encode()


def test_saving_is_whole_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    before = Attribution(SCORES, X, ClassLogit(1), GradCAM())
    before.save(path)
    for error, expected in ((OSError("disk full"), UnreadableFile), (KeyboardInterrupt(), KeyboardInterrupt)):

        def half(tensors, place, metadata, error=error):
            place.write_bytes(save(tensors)[:100])
            raise error

        monkeypatch.setattr("attribkit._core.serialization.save_file", half)
        with pytest.raises(expected):
            replace(before, scores=2 * SCORES).save(path)
    assert torch.equal(Attribution.load(path).scores, SCORES)
    assert list(tmp_path.iterdir()) == [path]


def test_paths_that_cannot_be_written(tmp_path, monkeypatch):
    attribution = Attribution(SCORES, X, ClassLogit(1), GradCAM())
    os.mkfifo(tmp_path / "pipe")
    for path in (
        tmp_path,
        tmp_path / "pipe",
        tmp_path / "none" / "a",
        "",
        "a\0b",
        None,
        3,
        b"bytes",
        tmp_path / ("n" * 300),
    ):
        with pytest.raises(UnreadableFile, match=r"cannot be written|is a folder|is not a valid file path"):
            attribution.save(path)
    (tmp_path / "kept").write_bytes(b"kept")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UnreadableFile, match="read-only"):
        attribution.save(tmp_path / "kept")
    with pytest.raises(UnreadableFile, match="cannot be written: the content cannot be stored"):
        attribution.to("meta").save(tmp_path / "meta")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["kept", "pipe"]
    assert (tmp_path / "kept").read_bytes() == b"kept"


def test_saving_through_a_link_and_over_what_was_loaded(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Attribution(SCORES, X, ClassLogit(1), GradCAM()).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    read = Attribution.load(tmp_path / "link")
    replace(read, notes=("more",)).save(tmp_path / "link")
    assert torch.equal(read.scores, SCORES)
    assert Attribution.load(tmp_path / "real").notes == ("more",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": torch.rand(1, 1, 4, 4)}, r"scores of shape \(1, 1, 4, 4\) do not fit x of shape \(2, 3, 8, 8\)"),
        ({"scores": torch.rand(3, 1, 4, 4)}, "do not fit"),
        ({"scores": torch.rand(2, 4, 4)}, "do not fit"),
        ({"scores": torch.rand(2, 1, 2, 4, 4)}, "do not fit"),
        ({"x": torch.rand(3, 3, 8, 8)}, "do not fit"),
        ({"scores": torch.rand(2, 1, 4, 4).long()}, "torch.int64"),
        ({"scores": torch.rand(2, 1, 4, 4).to_sparse()}, "torch.sparse_coo"),
        ({"scores": [[1.0]]}, "must be a torch.Tensor, got list"),
        ({"x": None}, "must be a torch.Tensor, got NoneType"),
        ({"x": torch.rand(2, 3, 0, 8)}, "with at least one channel and position"),
        ({"scores": torch.rand(2, 1, 4, 4, device="meta")}, "scores are on meta and x is on cpu"),
        ({"target": ClassLogit((0, 1, 2))}, "is a target for 3 images, but x has 2"),
        ({"target": 1}, "target must be a Target, got 1: write ClassLogit"),
        ({"method": "gradcam"}, "method must be a Method, got 'gradcam'"),
        ({"axes": "bhc"}, r"scores must have the 3 axes 'bhc' in this order, got \(2, 1, 4, 4\)"),
        ({"axes": "btchw"}, "must have the 5 axes 'btchw' in this order"),
        ({"axes": "bhwc", "x": [1]}, "x must have the 4 axes 'bhwc' in this order, got list"),
        ({"axes": 4}, "axes must name each axis of the images with a different letter, got 4"),
        ({"notes": "a note"}, "notes must be a tuple of strings, got 'a note'"),
        ({"notes": ["a note"]}, "must be a tuple of strings"),
    ],
)
def test_an_attribution_checks_its_parts(changes, words):
    with pytest.raises(InvalidInput, match=words):
        replace(Attribution(SCORES, X, ClassLogit(1), GradCAM()), **changes)


def test_sizes_of_a_heatmap():
    attribution = Attribution(SCORES, X, ClassLogit(1), GradCAM())
    assert attribution.heatmap(size=[5, 6]).shape == (2, 5, 6)
    for size in ((), (8,), (8, 8, 8), (0, 8), (8.0, 8), "88", 8):
        with pytest.raises(InvalidInput, match="size must be 2 positive integers in pixels"):
            attribution.heatmap(size=size)
    four = Attribution(torch.rand(1, 1, 2, 2, 2, 2), torch.rand(1, 1, 4, 4, 4, 4), ClassLogit(0), GradCAM())
    with pytest.raises(AttribkitError, match="resized along at most 3 spatial axes, got 4"):
        four.heatmap()


def test_measuring_refuses_what_is_not_of_these_images():
    x = torch.randn(2, 3, 16, 16)
    explainer = Explainer(tiny_cnn())
    found = explainer.attribute(x, "gradcam", target=1)
    for other, words in (
        (replace(found, x=x.flip(0)), "explains different images"),
        (replace(found, x=x[:, :, :8]), "explains different images"),
        (found[:1], "explains different images"),
        (
            replace(found, x=x.double()),
            "torch.float64 on cpu, but those of the other attributions are torch.float32 on cpu",
        ),
        (found.to("meta"), "on meta, but those of the other attributions are torch.float32 on cpu"),
        (replace(found, scores=found.scores * torch.nan), "are not finite"),
        (replace(found, target=Probability(1)), "have different targets"),
    ):
        with pytest.raises(InvalidInput, match=words):
            explainer.measure([found, other], ["sparseness"])
    for several in (found, "gradcam", iter([found]), None, {found}):
        with pytest.raises(InvalidInput, match="attributions must be a list of results"):
            explainer.measure(several, ["sparseness"])
    with pytest.raises(AttribkitError, match="float64"):
        explainer.evaluate(replace(found, x=x.double()), "deletion")
    with pytest.raises(AttribkitError, match="meta"):
        explainer.evaluate(found.to("meta"), "sparseness")


def test_a_loaded_attribution_measures_as_before(tmp_path):
    explainer = Explainer(tiny_cnn())
    found = explainer.attribute(torch.randn(2, 3, 16, 16), "gradcam", target=[1, 2])
    found.save(tmp_path / "a")
    read = Attribution.load(tmp_path / "a")
    for metric in ("deletion", "sparseness"):
        assert torch.equal(explainer.evaluate(read, metric), explainer.evaluate(found, metric))


CLASSES = {
    cls.name: cls
    for known in (registry.methods(), registry.metrics(), registry.visualizers(), registry.imputers())
    for cls in known.values()
}
CASES = [(cls, option) for cls in [*CLASSES.values(), GaussianBlur, FoldedBlur] for option in registry.options_of(cls)]


@pytest.mark.parametrize(("cls", "option"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_every_option_refuses_what_it_cannot_be(cls, option):
    known = registry.options_of(cls)[option]
    strange = [object(), {}, set(), b"x", 1j, nn.Linear(1, 1), float("inf"), float("nan"), -(10**400), "no such choice"]
    strange += [torch.tensor(1)] * (not isinstance(known, str))
    if isinstance(known, int | float) and not isinstance(known, bool):
        strange += [True, False, np.bool_(True), "1", [1.5], (True,)]
    if isinstance(known, int) and not isinstance(known, bool):
        strange += [1.5, 1.0, np.float64(2), 2**63, -(2**64)]
    if isinstance(known, bool):
        strange += [0, 1, "True", None]
    if cls is not GaussianBlur and option in ("layer", "gate"):
        strange.remove("no such choice")
    if option in registry.SUBSTRATES or option == "cells":
        strange = [each for each in strange if not isinstance(each, torch.Tensor)]
    for value in strange:
        with pytest.raises(InvalidInput, match=rf"^{option} must be .+, got .+ \(an option of '.+'\)\.$") as refused:
            cls(**{option: value})
        assert len(str(refused.value)) < 400
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("smoothgrad", {"samples": 0}, "samples must be an integer >= 1, got 0"),
        ("smoothgrad", {"sigma": -0.1}, "sigma must be a finite number >= 0, got -0.1"),
        ("smoothgrad", {"average": "median"}, "average must be one of 'mean', 'square', 'variance', got 'median'"),
        ("smoothgrad", {"average": "variance", "samples": 1}, "is zero everywhere: use at least 2 samples"),
        ("smoothgrad", {"average": "variance", "sigma": 0}, "is zero everywhere"),
        ("rise", {"masks": 2.5}, "masks must be an integer >= 1, got 2.5"),
        ("rise", {"masks": True}, "masks must be an integer >= 1, got True"),
        ("rise", {"probability": 1}, "probability must be a finite number > 0 and < 1, got 1"),
        ("rise", {"cells": (2, 2.0)}, "must be an integer >= 1, a non-empty tuple of these or None"),
        ("rise", {"cells": (2, True)}, "cells must be "),
        ("occlusion", {"stride": 0}, "stride must be .*, got 0"),
        ("occlusion", {"patch": ""}, "patch must be .*, got ''"),
        ("occlusion", {"baseline": NotImplemented}, "baseline must be .*, got NotImplemented"),
        ("integrated_gradients", {"steps": "Auto"}, "steps must be 'auto' or an integer >= 1, got 'Auto'"),
        ("integrated_gradients", {"tolerance": -1}, "tolerance must be .*, got -1"),
        ("integrated_gradients", {"baseline": ("zero", "black")}, "baseline must be "),
        ("attention", {"block": 0.0}, "block must be an integer, got 0.0"),
        ("attention", {"head": -1}, "head must be an integer >= 0 or None, got -1"),
        ("attention_rollout", {"discard_ratio": 1}, "discard_ratio must be a finite number >= 0 and < 1, got 1"),
        ("centre", {"sigma": 0}, "sigma must be a finite number > 0, got 0"),
        ("random", {"seed": 2**63}, r"seed must be an integer >= 0 and < 2\*\*63, got 9223372036854775808"),
        ("gradcam", {"layer": ("1", "")}, "layer must be "),
        ("deletion", {"fractions": (0.0, 1.5)}, "fractions must be "),
        (
            "deletion",
            {"reduce": "mean"},
            "reduce must be one of 'sum', 'sum_of_magnitudes', 'largest_magnitude', got 'mean'",
        ),
        ("sensitivity_n", {"sizes": (1, 2.5)}, "sizes must be "),
        ("mu_fidelity", {"samples": 1}, "samples must be an integer >= 2, got 1"),
        ("energy_pointing_game", {"max_coverage": 0}, "max_coverage must be a finite number > 0 and <= 1, got 0"),
        ("pointing_game", {"corners": 2}, "corners must be an integer >= 3 or None, got 2"),
        ("relevance_mass", {"empty_value": "0"}, "empty_value must be a finite number or None, got '0'"),
        ("parameter_randomisation", {"stages": 0}, "stages must be .*, got 0"),
        ("activation_maximization", {"scale": 1.0}, "scale must be a finite number >= 0 and < 1, got 1.0"),
        ("activation_maximization", {"jitter": (1, -1)}, "jitter must be "),
    ],
)
def test_ranges_of_options(name, options, words):
    with pytest.raises(InvalidInput, match=words):
        CLASSES[name](**options)


def test_what_stands_for_an_option_is_converted():
    made = CLASSES["rise"](masks=np.int64(5), probability=np.float32(0.5), cells=[4, np.int32(3)])
    assert repr(made) == "RISE(masks=5, cells=(4, 3), probability=0.5, seed=0)"
    assert made == CLASSES["rise"](masks=5, cells=(4, 3))
    assert hash(made) == hash(CLASSES["rise"](masks=5, cells=(4, 3)))
    assert repr(CLASSES["smoothgrad"](average=np.str_("square"), sigma=1).average) == "'square'"
    assert CLASSES["gradcam"](relu=np.False_).relu is False
    assert CLASSES["deletion"](fractions=[0, 0.5]).fractions == (0, 0.5)
    for copy in (pickle.loads(pickle.dumps(made)), replace(made)):
        assert (copy, repr(copy), hash(copy)) == (made, repr(made), hash(made))
    with pytest.raises(InvalidInput, match=r"masks must be .*, got 0"):
        replace(made, masks=0)


Wide = Annotated[int | None, Ge(2)]


@dataclass(frozen=True)
class Parent(Method):
    """Nothing."""

    name = "parent"
    source = "nobody"
    samples: Annotated[int, Interval(ge=1, lt=5)] = 1
    pair: tuple[int, str] = (1, "a")
    several: Sequence[float] = (1.0,)
    odd: Annotated[int, Constraint(lambda number: number % 2 == 1, "odd")] = 1
    wide: Wide = None
    function: Callable[[int], int] = abs
    inner: Method | None = None
    strings: "list[str] | None" = None
    unreadable: "NoSuchType" = 3  # noqa: F821

    def __call__(self, model, x, target):
        return x


@dataclass(frozen=True)
class Child(Parent):
    """A `__post_init__` of its own that forgets that of its base."""

    name = "child"
    doubled: int = 0

    def __post_init__(self):
        object.__setattr__(self, "doubled", 2 * self.samples)


@dataclass(frozen=True)
class Grandchild(Child):
    """One that calls it, after it has set what its annotation does not allow."""

    def __post_init__(self):
        object.__setattr__(self, "pair", None)
        super().__post_init__()


@pytest.mark.parametrize("cls", [Parent, Child, Grandchild])
def test_options_of_a_plugin_are_checked_without_its_help(cls):
    made = cls(samples=4, wide=2, inner=Parent(), strings=["a"], unreadable=object(), pair=[2, "b"], several=[1, 2.5])
    assert made.several == [1, 2.5]
    assert made.pair == (None if cls is Grandchild else (2, "b"))
    assert getattr(made, "doubled", 8) == 8
    for options, words in (
        ({"samples": 5}, "samples must be an integer >= 1 and < 5, got 5"),
        ({"samples": "4"}, "samples must be .*, got '4'"),
        ({"pair": (1, 2)}, r"pair must be a tuple of 2 items \(an integer, a string\), got \(1, 2\)"),
        ({"pair": (1, "a", 2)}, "pair must be "),
        ({"several": "12"}, r"several must be a sequence \(each item: a finite number\), got '12'"),
        ({"several": [1, None]}, "several must be "),
        ({"odd": 2}, "odd must be an integer, odd, got 2"),
        ({"wide": 1}, "wide must be an integer or None, >= 2, got 1"),
        ({"function": 3}, "function must be a function, got 3"),
        ({"inner": Parent}, "must be a Method or None"),
        ({"strings": "a"}, "strings must be a list or None, got 'a'"),
    ):
        with pytest.raises(InvalidInput, match=words):
            cls(**options)


def test_a_value_in_a_message_is_short_and_moves_no_cursor():
    class Rude:
        def __repr__(self):
            raise ZeroDivisionError

    for value, told in (
        ("\x1b[2J\n" * 99, r"'\\x1b\[2J\\n.*\.\.\."),
        (Rude(), "<Rude>"),
        (torch.ones(2), r"a tensor \(2,\)"),
    ):
        with pytest.raises(InvalidInput, match=f"^average must be one of 'mean', 'square', 'variance', got {told} "):
            CLASSES["smoothgrad"](average=value)


def test_the_suite_sees_options_that_are_not_checked():
    @dataclass(frozen=True)
    class Loose(Method):
        """Anything goes."""

        name = "loose"
        source = "nobody"
        anything: Any = 3

        def __call__(self, model, x, target):
            return x

    with pytest.raises(AssertionError, match=r"anything=<object object at .*> is accepted"):
        check_validated_options(Loose(), tiny_cnn(), X)
    check_validated_options(CLASSES["rise"](), tiny_cnn(), X)


PLUGIN = """
from dataclasses import dataclass
from attribkit import Method, hookimpl

{before}

@dataclass(frozen=True)
class Mine(Method):
    name = {name}
    source = "[red]me[/red] \x1b[2J"

    def __call__(self, model, x, target):
        {body}

@hookimpl
def attribkit_methods():
    {hook}
    return [Mine]

@hookimpl
def attribkit_model_spec(model):
    {spec}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay out a distribution as pip would, with one entry point; look for plugins anew."""

    def put(entry="hostile", name="'mine'", before="", body="return model.gradient(x, target)", hook="", spec=""):
        code = PLUGIN.format(before=before, name=name, body=body, hook=hook or "pass", spec=spec or "return None")
        (tmp_path / "hostile.py").write_text(code)
        info = tmp_path / "hostile-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[attribkit]\n{entry} = hostile\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "hostile", raising=False)
    discovery.load_plugins.cache_clear()
    yield put
    sys.modules.pop("hostile", None)
    discovery.load_plugins.cache_clear()


@pytest.mark.parametrize("where", ["before", "hook"])
@pytest.mark.parametrize("error", ["SystemExit(3)", "SystemExit", "ValueError('\\x1b[2J\\nattribkit: all is well')"])
def test_a_plugin_that_ends_the_program_is_left_out(install, where, error):
    install(**{where: f"raise {error}"})
    with pytest.warns(PluginWarning, match="^Plugin 'hostile' of 'hostile' was skipped: .*$") as caught:
        assert "gradcam" in registry.methods()
    assert "mine" not in registry.methods()
    assert str(caught[0].message).isprintable()


def test_an_interrupt_is_no_fault_of_a_plugin(install):
    install(before="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.methods()


def test_a_hook_that_ends_the_program_while_a_model_is_described(install):
    install(spec="raise SystemExit(4)")
    words = r"plugin 'hostile:hostile' was skipped: it must return a ModelSpec or None, got SystemExit\(4\)"
    with pytest.warns(PluginWarning, match=words):
        explainer = Explainer(tiny_cnn())
    assert torch.isfinite(explainer.attribute(torch.randn(1, 3, 16, 16)).scores).all()


def test_a_file_that_ends_the_program(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit(5)")
    with pytest.raises(InvalidInput, match=r"mine\.py' cannot be run: SystemExit: 5"):
        registry.register_file(tmp_path / "mine.py")


@pytest.mark.filterwarnings("ignore::attribkit._core.errors.PluginWarning")
def test_a_method_that_ends_the_program_is_named(install):
    install(body="raise SystemExit(7)")
    explainer, before = Explainer(model := tiny_cnn()), model_state(tiny_cnn())["training flags"]
    with pytest.raises(AttribkitError, match=r"Mine\(\), raised SystemExit\(7\), but a plugin must not exit"):
        explainer.attribute(torch.randn(1, 3, 16, 16), "mine")
    assert model_state(model)["training flags"] == before


class Exits:
    """Whatever is asked of it."""

    source = "nobody"

    def __call__(self, *_):
        raise SystemExit("[red]bye[/red]\n")


@dataclass(frozen=True)
class ExitingMetric(Exits, Complexity):
    """Ends."""

    name = "exiting"
    higher_is_better = None


@dataclass(frozen=True)
class ExitingVisualizer(Exits, Visualizer):
    """Ends."""

    name = "exiting"


@dataclass(frozen=True)
class ExitsWhenMade(Complexity):
    """Ends."""

    name = "exits_when_made"
    source = "nobody"
    higher_is_better = None

    def __post_init__(self):
        raise SystemExit

    def __call__(self, attribution):
        return attribution.scores.flatten(1).sum(1)


def test_metrics_and_visualizers_that_end_the_program_are_named():
    explainer = Explainer(tiny_cnn())
    found = explainer.attribute(torch.randn(1, 3, 16, 16), "gradcam", target=1)
    for call, name in (
        (lambda: explainer.evaluate(found, ExitingMetric()), "ExitingMetric"),
        (lambda: explainer.evaluate(found, ExitsWhenMade), "exits_when_made"),
        (lambda: explainer.visualize(1, ExitingVisualizer(), size=(3, 16, 16)), "ExitingVisualizer"),
    ):
        with pytest.raises(
            AttribkitError, match=rf"{name}.* raised SystemExit\(.*\), but a plugin must not exit"
        ) as error:
            call()
        assert str(error.value).isprintable()


BAD_NAMES = [
    "",
    " ",
    "a b",
    "a\nb",
    "mine\n",
    "\x1b[31mred",
    "[red]x[/red]",
    "a/b",
    "..",
    "a\\b",
    "-x",
    "=x",
    "a:b",
    "x" * 65,
    3,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
@pytest.mark.parametrize("kind", [Method, Complexity, Visualizer, Imputer], ids=lambda kind: kind.__name__)
def test_names_that_are_no_words_are_refused(name, kind):
    more = {"higher_is_better": None} if kind is Complexity else {}
    members = {"name": name, "source": "me", "__call__": lambda *_: None, "__doc__": "Nothing.", **more}
    cls = dataclass(frozen=True)(type("Mine", (kind,), members))
    with pytest.raises(
        AttribkitError, match=r"Mine is named .*: a name must consist of at most 64 letters, digits"
    ) as error:
        registry.register(cls)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("entry", ["a b", "[red]x", "../x", "\x1b[2Jx", "x" * 65])
def test_plugins_whose_own_name_is_no_word_are_left_out(install, entry):
    install(entry=entry)
    with pytest.warns(PluginWarning, match="was skipped: AttribkitError: The plugin is named") as caught:
        assert "mine" not in registry.methods()
    assert str(caught[0].message).isprintable()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"higher_is_better": "yes"}, "higher_is_better must be True, False or None, got 'yes'"),
        ({}, "higher_is_better must be True, False or None, got 'missing'"),
        ({"higher_is_better": None, "presets": ["a"]}, r"presets must be a mapping of names to options, got \['a'\]"),
        ({"higher_is_better": None, "presets": {"a\n": {}}}, r"A preset of .*Mine is named 'a\\n'"),
    ],
)
def test_metrics_that_no_table_can_describe_are_refused(members, words):
    base = {"name": "mine_of_tables", "source": "me", "__call__": lambda *_: None, "__doc__": "Nothing."}
    cls = dataclass(frozen=True)(type("Mine", (Complexity,), base | members))
    with pytest.raises(AttribkitError, match=words):
        registry.register(cls)


@pytest.mark.parametrize("command", ["methods", "plugins"])
def test_what_a_plugin_says_of_itself_is_shown_as_it_is(install, command):
    install()
    shown = CliRunner().invoke(app, [command])
    assert shown.exit_code == 0, shown.output
    assert "mine" in shown.output
    assert "\x1b" not in shown.output
    if command == "methods":
        assert r"[red]me[/red] \x1b[2J" in shown.output


def test_errors_on_the_command_line_move_no_cursor(tmp_path):
    output = str(tmp_path / "out.png")
    shown = CliRunner().invoke(app, ["explain", "[red]\x1b[2J.png", "--model", "zoo:cnn", "--output", output])
    assert shown.exit_code == 2
    assert "\x1b" not in shown.output
    assert r"[red]\x1b[2J.png" in shown.output


def read_back(cell):
    """As the documentation of the tables has it: one apostrophe is taken away before what a formula begins with."""
    return cell[1:] if cell.startswith("'") and re.match(FORMULA, cell[1:]) else cell


TEXTS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n1",
    " =1",
    "'=1",
    "''=1",
    "'\t",
    "\uff1d1",
    "=",
    "-",
    "'quoted'",
    "a=b",
    "",
    "'",
    "1-2",
]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_cells_of_text_are_no_formulas(text):
    record = {"method": text, "several": (text, "b"), "value": -1.5, "count": -2, "flag": None}
    written = csv_text(record, [record])
    (row,) = csv.DictReader(io.StringIO(written, newline=""))
    assert (row["value"], row["count"], row["flag"]) == ("-1.5", "-2", "")
    for cell in (row["method"], row["several"]):
        assert not cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
        assert not cell.startswith(("\t", "\r", "\n"))
    assert read_back(row["method"]) == text
    assert read_back(row["several"]) == f"{text}; b"
    rows = _quote_formulas(pa.table({"text": [text, None], "number": [-1.5, 2.0]}))
    assert rows["text"].to_pylist() == [spreadsheet_text(text), None]
    assert rows["number"].to_pylist() == [-1.5, 2.0]
