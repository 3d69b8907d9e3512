"""Plugins: a broken one is left out and named; everything else works."""

import sys
import textwrap
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest

from attribkit import AttribkitError, Complexity, Method, Metric, registry
from attribkit._core.errors import PluginWarning, UnknownName
from attribkit.registry import _discovery as discovery

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from attribkit import Method, hookimpl

@dataclass(frozen=True)
class Mine(Method):
    name = "{name}"
    source = "me"

    def __call__(self, model, x, target):
        return model.gradient(x, target)

@hookimpl
def {hook}():
    return {returns}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay out a distribution as pip would, with one entry point; look for plugins anew."""

    def put(name, code):
        module = name.replace("-", "_")
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[attribkit]\n{name} = {module}\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    discovery.load_plugins.cache_clear()
    yield put
    discovery.load_plugins.cache_clear()


def plugin(name="mine", hook="attribkit_methods", returns="[Mine]"):
    return METHOD.format(name=name, hook=hook, returns=returns)


def test_a_plugin_is_found(install):
    install("attribkit-mine", plugin())
    cls = registry.methods()["mine"]
    assert issubclass(cls, Method)
    assert registry.plugin_of(cls).distribution == "attribkit-mine"
    assert next(iter(registry.methods())) == "cam"
    assert list(registry.methods())[-1] == "mine"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('broken on import')", "broken on import"),
        ("import a_module_that_is_not_there", "a_module_that_is_not_there"),
        (
            plugin(name="gradcam"),
            "attribkit.methods._gradcam.GradCAM and attribkit_broken.Mine are both named 'gradcam'",
        ),
        (plugin(hook="attribkit_method"), "No hook is named 'attribkit_method'. Did you mean 'attribkit_methods'?"),
        (plugin() + "attribkit_hooks_version = 2", "it implements version 2 of the hooks, but attribkit"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise GeneratorExit('not an Exception')", "GeneratorExit: not an Exception"),
        (plugin(returns="[Mine()]"), "must return classes derived from Method"),
        (plugin(returns="[int]"), "must return classes derived from Method"),
        (plugin(returns="1 / 0"), "ZeroDivisionError"),
        (plugin(returns="[Method]"), "must return classes derived from Method"),
        (plugin().replace("@hookimpl", ""), "it must implement at least one hook"),
        (plugin().replace("frozen=True", ""), "must be a frozen dataclass"),
        (plugin().replace('    source = "me"', ""), "must have the class attribute 'source'"),
    ],
)
def test_a_broken_plugin_is_left_out_and_named(install, code, words):
    install("attribkit-broken", code)
    install("attribkit-zz-sound", plugin("sound"))
    with pytest.warns(PluginWarning, match="(?s)'attribkit-broken' was skipped.*") as caught:
        known = registry.methods()
    assert len(caught) == 1
    assert words in str(caught[0].message)
    assert registry.methods()["gradcam"].__module__ == "attribkit.methods._gradcam"
    assert "sound" in known


def test_skipped_plugins_are_listed_with_the_reason(install, monkeypatch):
    install("attribkit-broken", "raise RuntimeError('broken on import')")
    install("attribkit-other", plugin("other"))
    monkeypatch.setenv(registry.VARIABLE, "attribkit-broken")
    with pytest.warns(PluginWarning):
        skipped = {each.name: each for each in registry.skipped_plugins()}
    assert skipped["attribkit-broken"].reason == "RuntimeError: broken on import"
    assert skipped["attribkit-broken"].version == "1.0"
    assert "ATTRIBKIT_PLUGINS does not list it" in skipped["attribkit-other"].reason


def test_a_keyboard_interrupt_at_import_is_not_swallowed(install):
    install("attribkit-broken", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.plugins()


@pytest.mark.parametrize(
    ("value", "expected"), [("none", set()), ("attribkit-b", {"b"}), ("attribkit-a, attribkit-b", {"a", "b"})]
)
def test_the_environment_says_which_plugins_load(install, monkeypatch, value, expected):
    for letter in "ab":
        install(f"attribkit-{letter}", plugin(letter))
    monkeypatch.setenv(registry.VARIABLE, value)
    assert set(registry.methods()) & {"a", "b"} == expected


def test_a_model_spec_of_a_plugin_is_asked_first(install):
    install(
        "attribkit-spec",
        """
        from attribkit import ModelSpec, hookimpl

        @hookimpl
        def attribkit_model_spec(model):
            return ModelSpec(layer="mine") if len(model) == 1 else None
        """,
    )
    from torch import nn

    assert registry.model_spec(nn.Sequential(nn.ReLU())).layer == "mine"
    assert registry.model_spec(nn.Sequential()).layer is None
    words = "(?s)'attribkit-spec:attribkit-spec' was skipped: it must return a ModelSpec or None, got TypeError"
    with pytest.warns(PluginWarning, match=words):
        assert registry.model_spec(nn.Linear(1, 1)).layer is None  # has no length


def test_nothing_warns_without_plugins(install):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.methods()


def test_make(as_users_run):
    cls = registry.methods()["gradcam"]
    assert registry.make("gradcam", Method, layer="a") == registry.make(cls, Method, layer="a") == cls(layer="a")
    with pytest.raises(AttribkitError, match="method must be a name"):
        registry.make(int, Method)


def test_options_of():
    assert registry.options_of(registry.methods()["gradcam"]) == {"layer": None, "relu": True}


def test_presets_are_options_that_others_override():
    @dataclass(frozen=True)
    class Sharpness(Complexity):
        name = "sharpness"
        source = "nobody"
        higher_is_better = None
        presets: ClassVar = {"paper": {"power": 3, "cells": 7}}

        power: int = 1
        cells: int = 1

        def __call__(self, attribution):
            return attribution.scores.flatten(1).mean(1)

    made = registry.make(Sharpness, Metric, preset="paper", cells=9)
    assert made == Sharpness(power=3, cells=9)
    with pytest.raises(UnknownName, match="Did you mean 'paper'"):
        registry.make(Sharpness, Metric, preset="papr")


@pytest.mark.usefixtures("install")
def test_classes_of_this_process_have_names():
    def version(scale):
        @dataclass(frozen=True)
        class Scaled(Method):
            name, source, scale_ = "scaled", "a test", scale

            def __call__(self, model, x, target):
                return self.scale_ * x

        return Scaled

    first, second = version(1), version(2)
    registry.register(first)
    assert registry.methods()["scaled"] is first
    plugin = registry.plugin_of(first)
    assert (plugin.name, plugin.distribution) == ("method scaled", "this process")
    assert plugin.version.startswith("sha256 ")
    registry.register(second)  # as when a cell of a notebook runs again
    assert registry.methods()["scaled"] is second
    assert first not in [cls for plugin in registry.plugins() for cls in plugin.offers]


@pytest.mark.usefixtures("install", "as_users_run")
def test_what_cannot_be_registered_is_told():
    @dataclass(frozen=True)
    class Taken(Method):
        name, source = "gradcam", "a test"

        def __call__(self, model, x, target):
            return x

    with pytest.raises(AttribkitError, match=r"GradCAM and .*Taken are both named 'gradcam'"):
        registry.register(Taken)
    assert registry.methods()["gradcam"] is not Taken
    with pytest.raises(
        AttribkitError, match="must derive from one of Method, Visualizer, Metric, Imputer, Dataset, got"
    ):
        registry.register(int)
    with pytest.raises(AttribkitError, match="must return classes derived from Method"):
        registry.register(Method)
