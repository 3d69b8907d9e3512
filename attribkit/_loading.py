"""Loading of models by name, with their preprocessing: timm, torchvision, Hugging Face hub, zoo and Python files."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from attribkit import registry, zoo
from attribkit._core.errors import InvalidInput, UnknownName, UnreadableFile, UnsupportedModel, join_names
from attribkit._core.python_files import import_file
from attribkit._core.spec import ModelSpec
from attribkit._display.representations import short_value
from attribkit.io._preprocessing import ClipPreprocessing, Preprocessing

Built = TypeVar("Built")


class LoadedModel(NamedTuple):
    """A model in evaluation mode, with the preprocessing of its images or clips.

    Args:
        model: The model.
        preprocessing: A `Preprocessing`, or a `ClipPreprocessing` for a video model; a custom callable if a Python file
            returned one.
    """

    model: nn.Module
    preprocessing: Any

    def __repr__(self) -> str:
        return f"LoadedModel({short_value(self.model)}, {short_value(self.preprocessing)})"


def load_model(
    name: str, *, pretrained: bool = False, weights: str | Path | None = None, **arguments: Any
) -> LoadedModel:
    """Load a model by name.

    Args:
        name: "timm:resnet50", "torchvision:resnet50", "hf-hub:org/name", "zoo:cnn", or "my.py:build" for a function of
            a Python file that returns the model and its preprocessing.
        pretrained: Whether to download the published weights; zoo and hub models always use theirs.
        weights: Path of the weights: a safetensors file or a state dict that torch.save wrote, but not a pickled model.
        **arguments: Arguments for the constructor of the library, or for the function of the file.

    Returns:
        The model in evaluation mode and its preprocessing.

    Raises:
        UnknownName: If the kind of model or the model does not exist.
        InvalidInput: If arguments or weights do not fit the model.
        UnreadableFile: If weights cannot be downloaded or read.
        UnsupportedModel: If the model is not an image or video classifier.

    Example:
        >>> model, preprocessing = load_model("torchvision:resnet50", pretrained=True)
        >>> x = preprocessing(Image.open("dog.jpg"))[None]
    """
    scheme, separator, rest = name.partition(":")
    if is_file_model(name):
        loaded = _load_from_file(name, pretrained, arguments)
    elif separator and scheme in _SCHEMES:
        loaded = _SCHEMES[scheme](rest, pretrained, arguments)
    else:
        raise UnknownName("kind of model", name, [*(f"{each}:NAME" for each in _SCHEMES), "FILE.py:FUNCTION"])
    if weights is not None:
        _load_weights(loaded.model, Path(weights), name)
    loaded.model.eval()
    return loaded


def is_file_model(name: str) -> bool:
    """Return whether a model's name is a function of a Python file, such as "my.py:build"."""
    return name.rpartition(":")[0].endswith(".py")


def complete_spec(model: nn.Module, preprocessing: Any) -> ModelSpec:
    """Return the spec of the model's family with input size, mean and standard deviation of the preprocessing."""
    spec = registry.model_spec(model)
    size = spec.input_size or preprocessing.shape
    return replace(spec, mean=preprocessing.mean, std=preprocessing.std, input_size=size)


def _load_from_file(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    """Call the function of a Python file; it gets `pretrained=True` only if pretrained weights are requested."""
    path, _, function = name.rpartition(":")
    module = import_file(path)
    build = getattr(module, function, None)
    if not callable(build):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"function of {path}", function, functions)
    built = _build(name, lambda: build(**arguments, **({"pretrained": True} if pretrained else {})))
    if isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], nn.Module):
        return LoadedModel(*built)
    if isinstance(built, nn.Module) and hasattr(built, "pretrained_cfg"):
        return LoadedModel(built, Preprocessing.from_timm(built))
    raise InvalidInput(
        f"{name} must return the model and its preprocessing, got {type(built).__name__}: write `return model, "
        "attribkit.io._preprocessing.Preprocessing(size=(224, 224), resize=256, mean=(...), std=(...))`."
    )


def _timm(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    import timm  # imported locally, since these libraries are slow to import

    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownName("timm model", name, timm.list_models())
    if dot and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise UnknownName("timm model", name, tagged)
    if "in_chans" in arguments and arguments["in_chans"] != 3:
        raise InvalidInput(
            f"in_chans must be 3, the channels of photographs, got {arguments['in_chans']}: for other images, create "
            "the model yourself and use Explainer(model)."
        )
    model = _build(f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained, **arguments))
    return LoadedModel(model, Preprocessing.from_timm(model))


def _hub(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    import timm

    model = _build(f"hf-hub:{name}", lambda: timm.create_model(f"hf-hub:{name}", pretrained=True, **arguments))
    return LoadedModel(model, Preprocessing.from_timm(model))


def clip_preprocessing(name: str) -> ClipPreprocessing | None:
    """Return the preprocessing of clips for a video model, by its name; None for models of photographs."""
    scheme, _, rest = name.partition(":")
    if scheme != "torchvision":
        return None
    from torchvision import models

    return ClipPreprocessing.from_torchvision(_default_weights(models, rest)) if _takes_clips(models, rest) else None


def _torchvision(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    from torchvision import models

    of_clips, default = _takes_clips(models, name), _default_weights(models, name)
    preprocessing = (
        ClipPreprocessing.from_torchvision(default)
        if of_clips
        else Preprocessing.from_torchvision(default.transforms())
    )
    chosen = default if pretrained else None
    model = _build(f"torchvision:{name}", lambda: models.get_model(name, weights=chosen, **arguments))
    return LoadedModel(model, preprocessing)


def _takes_clips(models: Any, name: str) -> bool:
    """Return whether a torchvision classifier takes clips; raise an error for other models and unknown names."""
    classifiers, clips = (models.list_models(module=module) for module in (models, models.video))
    if name in set(models.list_models()) - {*classifiers, *clips}:
        raise UnsupportedModel(
            f"torchvision:{name} is not an image or video classifier: create it yourself and use Explainer(model)."
        )
    if name not in (*classifiers, *clips):
        raise UnknownName("torchvision model", name, [*classifiers, *clips])
    return name in clips


def _default_weights(models: Any, name: str) -> Any:
    """Return torchvision's default weights, which also define the preprocessing."""
    return models.get_model_weights(name).DEFAULT


def _zoo(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    if arguments:
        raise InvalidInput(f"zoo:{name} does not take arguments, got {join_names(arguments)}.")
    model = zoo.load_zoo_model(name)
    return LoadedModel(model, Preprocessing.from_timm(model))


_SCHEMES: dict[str, Callable[[str, bool, Mapping[str, Any]], LoadedModel]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf-hub": _hub,
    "zoo": _zoo,
}


def _build(name: str, build: Callable[[], Built]) -> Built:
    """Call a function that builds a model, and convert its errors into AttribkitErrors."""
    try:
        return build()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be created with these arguments: {error}") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"The weights of {name} could not be downloaded ({type(error).__name__}: {reason}). Without a network "
            "connection, pass a file with weights=..., or omit pretrained=True."
        ) from error


def _load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Load all weights of the model from a file; raise InvalidInput with those that do not fit."""
    state = _read_state(path)
    expected = model.state_dict()
    missing, unexpected = [k for k in expected if k not in state], [k for k in state if k not in expected]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(expected[k].shape)}"
        for k in expected.keys() & state.keys()
        if state[k].shape != expected[k].shape
    ]
    problems = {"missing": missing, "not in the model": unexpected, "of another shape": sorted(shapes)}
    if any(problems.values()):
        details = "; ".join(f"{len(keys)} {what} ({join_names(keys[:3])})" for what, keys in problems.items() if keys)
        raise InvalidInput(
            f"The weights {str(path)!r} do not fit {name}: {details}. Check the model's name and arguments."
        )
    model.load_state_dict(state)


def _read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a saved state dict."""
    if not path.is_file():
        raise UnreadableFile(f"Weights file {str(path)!r} does not exist: check the path.")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableFile(
            f"{str(path)!r} contains objects other than tensors, and loading them could execute code: save the "
            "state_dict() as safetensors."
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"{str(path)!r} cannot be read as weights ({reason}): download or save the file again."
        ) from error
    nested = [
        state[key] for key in ("state_dict", "model") if isinstance(state, dict) and isinstance(state.get(key), dict)
    ]
    tensors = nested[0] if nested else state
    if not isinstance(tensors, dict):
        raise UnreadableFile(
            f"{str(path)!r} must contain a state_dict(), got {type(state).__name__}: save model.state_dict()."
        )
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()):
        raise UnreadableFile(f"{str(path)!r} must contain only named tensors: save model.state_dict().")
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in tensors.items()}
