"""What the numbers of a run depend on, so that two runs in a folder are the same run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attribkit import __version__, registry
from attribkit.benchmark.choices import ModelChoice
from attribkit.benchmark.complaints import asked_at
from attribkit.benchmark.configuration import Configuration
from attribkit.benchmark.files import write_text_whole
from attribkit.benchmark.plan import Plan
from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.loading import LoadedModel

Identity = dict[str, dict[str, Any]]

_FILE = "run.json"
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "scikit-image", "scipy")
_SETTINGS = {"target", "seed", "shard_size", "batch_size", "device", "save_maps", "save_details"}


def identity(configuration: Configuration, plan: Plan, data: Any) -> Identity:
    """Options, package versions, weights and data of a run."""
    return {
        "settings": configuration.model_dump(mode="json", include=_SETTINGS),
        "versions": _versions(plan),
        "data": {configuration.data.kind: data.fingerprint(), "images": plan.images},
        "models": dict(_models(configuration)),
        "methods": {title: repr(method or "the mask") for title, method in plan.methods.items()},
        "metrics": {title: repr(metric) for title, metric in plan.metrics.items()},
    }


def loaded(choice: ModelChoice, seed: int) -> LoadedModel:
    """The model of a choice; one without weights has the same random ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return choice.load()


def fingerprint(told: Identity) -> str:
    """The identity in a few characters."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def claim(folder: Path, told: Identity, configuration: Configuration) -> None:
    """Make the folder that of this run, or refuse one of another and say what is different."""
    path = folder / _FILE
    if not path.exists():
        record = {"name": configuration.name, "identity": told, "configuration": configuration.model_dump()}
        write_text_whole(path, json.dumps(record, indent=2, default=str))
        return
    try:
        before: Identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(f"{str(path)!r} is broken ({error}): choose another output.") from error
    if changes := list(_changes(before, told)):
        raise InvalidInput(
            f"{str(folder)!r} holds a run that is not this one: {'; '.join(changes)}. Choose another output, so that "
            "numbers of both are not mixed."
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{part} {name!r} was {_brief(before.get(part, {}).get(name))} and is {_brief(now.get(part, {}).get(name))}"
        for part in {**before, **now}
        for name in {**before.get(part, {}), **now.get(part, {})}
        if before.get(part, {}).get(name) != now.get(part, {}).get(name)
    ]


def _brief(told: Any) -> str:
    return "absent" if told is None else str(told)


def _versions(plan: Plan) -> dict[str, str]:
    """Of the packages that compute, and of the plugins that take part."""
    taking_part = {type(each) for each in (*plan.methods.values(), *plan.metrics.values())}
    offered = (plugin for plugin in registry.plugins() if taking_part & set(plugin.offers))
    plugins = {plugin.distribution for plugin in offered} - {"attribkit"}
    return {"attribkit": __version__} | {package: version(package) for package in (*_PACKAGES, *sorted(plugins))}


def _models(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """What tells each model from others."""
    for place, choice in enumerate(configuration.models):
        with asked_at("models", place):
            model, preprocessing = loaded(choice, configuration.seed)
        yield choice.title, f"weights {_checksum(model)}, {preprocessing!r}"


def _checksum(module: nn.Module) -> str:
    """Of names, types, shapes and bytes of all that a model's state holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
