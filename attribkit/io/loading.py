"""Models by name: from timm, torchvision, the embedded zoo or the Hugging Face hub, with their own preprocessing."""

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
from attribkit.core.errors import InvalidInput, UnknownName, UnreadableFile, UnsupportedModel, join_names
from attribkit.core.spec import ModelSpec
from attribkit.io.preprocessing import ClipPreprocessing, Preprocessing
from attribkit.registry.local import module_of

Built = TypeVar("Built")


class LoadedModel(NamedTuple):
    """A model in evaluation mode, and what its images, or clips, must go through."""

    model: nn.Module
    preprocessing: Any  # a Preprocessing; of a model of video a ClipPreprocessing


def load_model(
    name: str, *, pretrained: bool = False, weights: str | Path | None = None, **arguments: Any
) -> LoadedModel:
    """Make a model by name: "timm:resnet50", "torchvision:resnet50", "hf-hub:org/name", "zoo:cnn" or "my.py:build".

    pretrained: fetch the weights that the library publishes (the zoo's are always there). weights: a safetensors file,
    or a state dict that torch.save wrote; never a whole pickled model. arguments: go to the library's constructor, or
    to the function of the file, which gives the model and its preprocessing.
    """
    scheme, separator, rest = name.partition(":")
    if is_file_model(name):
        loaded = _of_file(name, pretrained, arguments)
    elif separator and scheme in _SCHEMES:
        loaded = _SCHEMES[scheme](rest, pretrained, arguments)
    else:
        raise UnknownName("kind of model", name, [*(f"{each}:NAME" for each in _SCHEMES), "FILE.py:FUNCTION"])
    if weights is not None:
        _fill(loaded.model, Path(weights), name)
    loaded.model.eval()
    return loaded


def is_file_model(name: str) -> bool:
    """Whether a model's name is a function of a Python file, "my.py:build"."""
    return name.rpartition(":")[0].endswith(".py")


def complete_spec(model: nn.Module, preprocessing: Any) -> ModelSpec:
    """What the model's family says of it, with the size and the colours of its preprocessing."""
    spec = registry.model_spec(model)
    size = spec.input_size or preprocessing.shape
    return replace(spec, mean=preprocessing.mean, std=preprocessing.std, input_size=size)


def _of_file(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    """What a function of the user's own makes; it is told of pretrained weights only if they are asked for."""
    path, _, function = name.rpartition(":")
    module = module_of(path)
    make = getattr(module, function, None)
    if not callable(make):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise UnknownName(f"function of {path}", function, known)
    made = _made(name, lambda: make(**arguments, **({"pretrained": True} if pretrained else {})))
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return LoadedModel(*made)
    if isinstance(made, nn.Module) and hasattr(made, "pretrained_cfg"):
        return LoadedModel(made, Preprocessing.of_timm(made))
    raise InvalidInput(
        f"{name} gave {type(made).__name__}: give the model and its preprocessing, such as `return model, "
        "attribkit.io.preprocessing.Preprocessing(size=(224, 224), resize=256, mean=(...), std=(...))`."
    )


def _timm(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    import timm  # here and below, since these libraries are slow to import

    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownName("timm model", name, timm.list_models())
    if dot and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise UnknownName("timm model", name, tagged)
    if "in_chans" in arguments and arguments["in_chans"] != 3:
        raise InvalidInput("Photographs have 3 channels: make a model of others yourself and use Explainer(model).")
    model = _made(f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained, **arguments))
    return LoadedModel(model, Preprocessing.of_timm(model))


def _hub(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    import timm

    model = _made(f"hf-hub:{name}", lambda: timm.create_model(f"hf-hub:{name}", pretrained=True, **arguments))
    return LoadedModel(model, Preprocessing.of_timm(model))


def clip_preprocessing(name: str) -> ClipPreprocessing | None:
    """What clips must go through for a model of video, by its name alone; None for models of photographs."""
    scheme, _, rest = name.partition(":")
    if scheme != "torchvision":
        return None
    from torchvision import models

    return ClipPreprocessing.of_torchvision(_published(models, rest)) if _takes_clips(models, rest) else None


def _torchvision(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    from torchvision import models

    of_clips, default = _takes_clips(models, name), _published(models, name)
    preprocessing = (
        ClipPreprocessing.of_torchvision(default) if of_clips else Preprocessing.of_torchvision(default.transforms())
    )
    chosen = default if pretrained else None
    model = _made(f"torchvision:{name}", lambda: models.get_model(name, weights=chosen, **arguments))
    return LoadedModel(model, preprocessing)


def _takes_clips(models: Any, name: str) -> bool:
    """Whether a classifier of torchvision is one of clips; what is no classifier, or none that there is, is refused."""
    classifiers, clips = (models.list_models(module=module) for module in (models, models.video))
    if name in set(models.list_models()) - {*classifiers, *clips}:
        raise UnsupportedModel(f"torchvision:{name} is no image classifier: load it yourself and use Explainer(model).")
    if name not in (*classifiers, *clips):
        raise UnknownName("torchvision model", name, [*classifiers, *clips])
    return name in clips


def _published(models: Any, name: str) -> Any:
    """The weights that torchvision offers first; they tell the preprocessing too."""
    return models.get_model_weights(name).DEFAULT


def _zoo(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedModel:
    if arguments:
        raise InvalidInput(f"zoo:{name} takes no arguments, got {join_names(arguments)}.")
    model = zoo.load_zoo_model(name)
    return LoadedModel(model, Preprocessing.of_timm(model))


_SCHEMES: dict[str, Callable[[str, bool, Mapping[str, Any]], LoadedModel]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf-hub": _hub,
    "zoo": _zoo,
}


def _made(name: str, make: Callable[[], Built]) -> Built:
    """The model, or one sentence on why there is none."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be made with these arguments: {error}") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"The weights of {name} could not be fetched ({type(error).__name__}: {reason}). Without a network, give a "
            "file by weights=..., or do without pretrained weights."
        ) from error


def _fill(model: nn.Module, path: Path, name: str) -> None:
    """Load every weight of the model from a file, or say which do not fit."""
    state = _read(path)
    own = model.state_dict()
    missing, foreign = [k for k in own if k not in state], [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]
    complaints = {"missing": missing, "not in the model": foreign, "of another shape": sorted(shapes)}
    if any(complaints.values()):
        told = "; ".join(f"{len(keys)} {what} ({join_names(keys[:3])})" for what, keys in complaints.items() if keys)
        raise InvalidInput(
            f"The weights {str(path)!r} do not fit {name}: {told}. Look at the model's name and arguments."
        )
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a saved state dict."""
    if not path.is_file():
        raise UnreadableFile(f"There are no weights {str(path)!r}: look at the path.")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableFile(
            f"{str(path)!r} holds more than tensors, and a pickle can run code: save the state_dict() as safetensors."
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"{str(path)!r} holds no weights that can be read ({reason}): fetch the file anew."
        ) from error
    nested = [
        state[key] for key in ("state_dict", "model") if isinstance(state, dict) and isinstance(state.get(key), dict)
    ]
    tensors = nested[0] if nested else state
    if not isinstance(tensors, dict):
        raise UnreadableFile(f"{str(path)!r} holds no weights but a {type(state).__name__}: save a state_dict().")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()):
        raise UnreadableFile(f"{str(path)!r} holds more than named tensors: save a state_dict().")
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in tensors.items()}
