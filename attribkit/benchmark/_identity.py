"""The identity of a run, which is all that its numbers depend on, and files that are written atomically."""

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from attribkit import __version__, registry
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._core import serialization
from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit._loading import LoadedModel, is_file_model
from attribkit.benchmark._settings.choices import ModelChoice
from attribkit.benchmark._settings.configuration import Configuration
from attribkit.benchmark._settings.plan import Plan, WorkUnit
from attribkit.benchmark._settings.validation_errors import at_setting

Identity = dict[str, dict[str, Any]]

_FILE = "run.json"
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "scikit-image", "scipy")
_SETTINGS = {"target", "seed", "shard_size", "batch_size", "device", "threads"}
_PER_UNIT = ("models", "methods")  # entries that concern only some units; they may be added to and left out of a run


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, and rename it once it is on the disk.

    Raises:
        UnreadableFile: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        serialization.write_whole(path, write)
    except OSError as error:
        raise UnreadableFile(
            f"{str(path)!r} cannot be written ({error}). Fix the cause and start the same run again; finished units "
            "are kept."
        ) from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, and rename it once it is on the disk."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for path in folder.rglob(f"*{serialization.UNFINISHED}"):
        path.unlink(missing_ok=True)


def identity(configuration: Configuration, plan: Plan, data: Any) -> Identity:
    """Return the options, package versions, weights and data of a run."""
    return {
        "settings": configuration.model_dump(mode="json", include=_SETTINGS),
        "versions": {"attribkit": __version__} | {package: version(package) for package in _PACKAGES},
        "data": {configuration.data.name: data.fingerprint(), "images": plan.images},
        "metrics": {title: _plugin_identity(metric) for title, metric in plan.metrics.items()},
        "models": dict(_model_identities(configuration)),
        "methods": {
            title: _plugin_identity(method) if method else "the mask" for title, method in plan.methods.items()
        },
    }


def unit_fingerprint(run_identity: Identity, unit: WorkUnit) -> str:
    """Return a hash of what the numbers of a unit depend on; other models and methods of the run do not change it."""
    of_unit = {"models": run_identity["models"][unit.model], "methods": run_identity["methods"][unit.method]}
    return hashlib.sha256(json.dumps({**run_identity, **of_unit}, sort_keys=True).encode()).hexdigest()


def load_choice(choice: ModelChoice, seed: int) -> LoadedModel:
    """Load the model of a choice; random weights depend only on the seed and the processor."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return choice.load()


def model_identity(choice: ModelChoice, loaded: LoadedModel) -> str:
    """Return checksums of the model's weights and of the file that builds it, and its preprocessing."""
    code = f", code {_file_digest(choice.name)}" if is_file_model(choice.name) else ""
    return f"weights {_weights_digest(loaded.model)}, {loaded.preprocessing!r}{code}"


def claim_folder(folder: Path, run_identity: Identity, configuration: Configuration) -> None:
    """Record the run in its folder, or raise InvalidInput with the differences if the folder belongs to another run.

    Models and methods may be added to a run or left out of it.
    """
    path = folder / _FILE
    before = _read_identity(path)
    if changes := list(_changes(before, run_identity)):
        raise InvalidInput(
            f"{str(folder)!r} contains a different run: {'; '.join(changes)}. Choose another output folder, because "
            "the numbers of two runs must not be mixed."
        )
    merged = {part: {**before.get(part, {}), **run_identity[part]} for part in run_identity}
    record = {"name": configuration.name, "identity": merged, "configuration": configuration.model_dump()}
    write_text_atomically(path, json.dumps(record, indent=2, default=str))


def _read_identity(path: Path) -> Identity:
    """Return the identity of the run in the folder; an empty one for a new folder."""
    if not path.exists():
        return {}
    try:
        return read_record(path.parent).identity
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(f"{str(path)!r} is corrupted ({error}). Choose another output folder.") from error


class RunRecord(NamedTuple):
    """The record of a run in its folder.

    Args:
        name: Name of the run.
        identity: What its numbers depend on.
        configuration: All its settings, as JSON has them.
    """

    name: str
    identity: Identity
    configuration: dict[str, Any]


def read_record(folder: Path) -> RunRecord:
    """Read the record that `claim_folder` wrote.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not JSON. Another content raises KeyError or TypeError.
    """
    record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return RunRecord(record["name"], record["identity"], record["configuration"])


def _changes(before: Identity, now: Identity) -> list[str]:
    return [
        f"{part} {name!r} was {_shown(before[part].get(name))} and is {_shown(now[part].get(name))}"
        for part in before
        for name in {**before[part], **now[part]}
        if before[part].get(name) != now[part].get(name)
        and not (part in _PER_UNIT and (name not in before[part] or name not in now[part]))
    ]


def _shown(value: Any) -> str:
    return "absent" if value is None else str(value)


def _plugin_identity(instance: Method | Metric) -> str:
    """Return the options, and the version of the plugin that defines the class."""
    plugin = next((plugin for plugin in registry.plugins() if type(instance) in plugin.offers), None)
    if plugin is None or plugin.distribution == "attribkit":
        return repr(instance)
    return f"{instance!r} of {plugin.version}"


def _model_identities(configuration: Configuration) -> Iterator[tuple[str, str]]:
    for index, choice in enumerate(configuration.models):
        with at_setting("models", index):
            yield choice.title, model_identity(choice, load_choice(choice, configuration.seed))


def _file_digest(name: str) -> str:
    """Return a checksum of the Python file of a model that is named FILE:FUNCTION."""
    return hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()[:16]


def _weights_digest(module: nn.Module) -> str:
    """Return a checksum of the names, types, shapes and values in a model's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
