"""[benchmark/storage/files] Files that are there whole or not at all.
[benchmark/storage/identity] What the numbers of a run depend on, so that two runs in a folder are the same run.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attribkit import __version__, registry
from attribkit.benchmark.settings.choices import ModelChoice
from attribkit.benchmark.settings.configuration import Configuration
from attribkit.benchmark.settings.plan import Plan, WorkUnit
from attribkit.benchmark.settings.validation_errors import at_setting
from attribkit.contracts.method import Method
from attribkit.contracts.metric import Metric
from attribkit.core import serialization
from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.io.loading import LoadedModel, is_file_model

UNFINISHED = serialization.UNFINISHED  # ending of a file that is being written


def write_result(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, and put it there once the disk has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        serialization.write_whole(path, write)
    except OSError as error:
        raise UnreadableFile(
            f"{str(path)!r} cannot be written ({error}): mend that and start the same run again; what is finished is "
            "kept."
        ) from error


def write_text_whole(path: Path, text: str) -> None:
    """Write a text so."""
    write_result(path, lambda beside: beside.write_text(text, encoding="utf-8", newline=""))


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing."""
    for path in folder.rglob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


Identity = dict[str, dict[str, Any]]

_FILE = "run.json"
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "scikit-image", "scipy")
_SETTINGS = {"target", "seed", "shard_size", "batch_size", "device", "threads"}
_PER_UNIT = ("models", "methods")  # what is of some units alone: others may come and go


def identity(configuration: Configuration, plan: Plan, data: Any) -> Identity:
    """Options, package versions, weights and data of a run."""
    return {
        "settings": configuration.model_dump(mode="json", include=_SETTINGS),
        "versions": {"attribkit": __version__} | {package: version(package) for package in _PACKAGES},
        "data": {configuration.data.kind: data.fingerprint(), "images": plan.images},
        "metrics": {title: _of_offer(metric) for title, metric in plan.metrics.items()},
        "models": dict(_models(configuration)),
        "methods": {title: _of_offer(method) if method else "the mask" for title, method in plan.methods.items()},
    }


def unit_fingerprint(told: Identity, unit: WorkUnit) -> str:
    """All that the numbers of a unit depend on, in a few characters: not on the other models and methods."""
    own = {"models": told["models"][unit.model], "methods": told["methods"][unit.method]}
    return hashlib.sha256(json.dumps({**told, **own}, sort_keys=True).encode()).hexdigest()


def load_choice(choice: ModelChoice, seed: int) -> LoadedModel:
    """The model of a choice; one without weights has the same random ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return choice.load()


def model_identity(choice: ModelChoice, loaded: LoadedModel) -> str:
    """What tells a model from others: its weights, its preprocessing and the code of one's own that builds it."""
    code = f", code {_digest(choice.name)}" if is_file_model(choice.name) else ""
    return f"weights {_checksum(loaded.model)}, {loaded.preprocessing!r}{code}"


def claim_folder(folder: Path, told: Identity, configuration: Configuration) -> None:
    """Make the folder that of this run, or refuse one of another and say what is different.

    Models and methods may be added to a run, and left out of it.
    """
    path = folder / _FILE
    before = _before(path)
    if changes := list(_changes(before, told)):
        raise InvalidInput(
            f"{str(folder)!r} holds a run that is not this one: {'; '.join(changes)}. Choose another output, so that "
            "numbers of both are not mixed."
        )
    known = {part: {**before.get(part, {}), **told[part]} for part in told}
    record = {"name": configuration.name, "identity": known, "configuration": configuration.model_dump()}
    write_text_whole(path, json.dumps(record, indent=2, default=str))


def _before(path: Path) -> Identity:
    """What the folder is of; nothing of a new one."""
    if not path.exists():
        return {}
    try:
        told: Identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(f"{str(path)!r} is broken ({error}): choose another output.") from error
    return told


def _changes(before: Identity, now: Identity) -> list[str]:
    return [
        f"{part} {name!r} was {_brief(before[part].get(name))} and is {_brief(now[part].get(name))}"
        for part in before
        for name in {**before[part], **now[part]}
        if before[part].get(name) != now[part].get(name)
        and not (part in _PER_UNIT and (name not in before[part] or name not in now[part]))
    ]


def _brief(told: Any) -> str:
    return "absent" if told is None else str(told)


def _of_offer(offer: Method | Metric) -> str:
    """Options, and the version of the plugin that brings it."""
    plugin = next((plugin for plugin in registry.plugins() if type(offer) in plugin.offers), None)
    return repr(offer) if plugin is None or plugin.distribution == "attribkit" else f"{offer!r} of {plugin.version}"


def _models(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """What tells each model from others."""
    for place, choice in enumerate(configuration.models):
        with at_setting("models", place):
            yield choice.title, model_identity(choice, load_choice(choice, configuration.seed))


def _digest(name: str) -> str:
    """Of the file that a model is built by."""
    return hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()[:16]


def _checksum(module: nn.Module) -> str:
    """Of names, types, shapes and bytes of all that a model's state holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
