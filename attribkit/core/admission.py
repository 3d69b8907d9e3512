"""Who may come in: models whose hooks fire, and images that fit the model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from attribkit.core.errors import InvalidInput, UnsupportedModel
from attribkit.core.model import HookedModel

_CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv2d: 4, nn.Conv3d: 5}  # axes of their input


def unwrapped(model: Any) -> nn.Module:
    """The module whose hooks fire: out of compiled and data-parallel wrappers; traced and exported ones are refused."""
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"A model must be a torch.nn.Module, got {type(model).__name__}.")
    while (inner := _wrapped(model)) is not None:
        model = inner
    for module in model.modules():
        kind = _frozen_kind(module)
        if kind:
            raise UnsupportedModel(
                f"{type(module).__name__} is {kind}: hooks never fire in it, so nothing inside can be explained. "
                "Pass the original module, before it was converted."
            )
        if "quantized" in type(module).__module__.split("."):
            raise UnsupportedModel(
                f"{type(module).__name__} is quantised: no gradient goes through its whole numbers. Pass the "
                "floating-point model that it was made from (torchvision: quantize=False)."
            )
    _check_parameters(model)
    return model


def _check_parameters(model: nn.Module) -> None:
    parameters = list(model.parameters())
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
        raise UnsupportedModel(f"{type(model).__name__} has lazy modules: run it once, so that they get their shapes.")
    if any(tensor.is_inference() for tensor in [*parameters, *model.buffers()]):
        raise UnsupportedModel(
            f"{type(model).__name__} was made under torch.inference_mode, which rules gradients out for good: make it "
            "outside, or pass copy.deepcopy(model)."
        )
    if not any(parameter.is_floating_point() for parameter in parameters):
        raise UnsupportedModel(
            f"{type(model).__name__} has no floating-point parameters: there is nothing in it to explain. "
            "Pass the network itself; a quantised one before it was quantised."
        )


def check_images(x: Any, model: HookedModel) -> None:
    """Refuse images that the model cannot have been meant to see."""
    if not isinstance(x, Tensor):
        raise InvalidInput(f"Images must be a torch.Tensor (b, c, *space), got {type(x).__name__}{_advice(x)}.")
    like = next(p for p in model.module.parameters() if p.is_floating_point())
    _check_shape(tuple(x.shape), model)
    if not x.is_floating_point():
        raise InvalidInput(
            f"Images of {x.dtype} are raw pixels: convert them to floats and normalise them as the model expects."
        )
    if x.device != like.device:
        raise InvalidInput(
            f"The images are on {x.device} and the model on {like.device}: pass x.to({str(like.device)!r})."
        )
    if x.dtype != like.dtype:
        raise InvalidInput(f"The images are {x.dtype} and the model {like.dtype}: pass x.to({like.dtype}).")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        wrong = (~finite).nonzero().flatten().tolist()
        raise InvalidInput(f"Images {wrong} hold NaN or infinite values: look at how they were loaded and normalised.")


def _advice(x: Any) -> str:
    """What to do with images that are no tensor."""
    if isinstance(x, Mapping):
        named = ", ".join(map(repr, x))
        return (
            f" of {named}: one input is explained at a time; name it by Explainer(model, image=...), give its tensor "
            "as x, and the others by inputs={name: tensor}"
        )
    if isinstance(x, list | tuple):
        return (
            f" of {len(x)} entries: torch.stack images of one size; of several inputs of a model one is explained at a "
            "time, give its tensor as x and the others by inputs={name: tensor}"
        )
    return ": torch.as_tensor(x) makes one of an array"


def _check_shape(shape: tuple[int, ...], model: HookedModel) -> None:
    expected = _input_axes(model)
    if expected is not None and len(shape) != expected:
        hint = " Add the batch axis: x[None]." if len(shape) == expected - 1 else ""
        raise InvalidInput(f"The model takes images of {expected} axes (b, c, *space), got shape {shape}.{hint}")
    if len(shape) < 3:
        raise InvalidInput(f"Images must have the shape (b, c, *space), got {shape}.")
    if 0 in shape:
        raise InvalidInput(f"There is nothing to explain in images of shape {shape}: pass at least one image.")
    channels = _input_channels(model)
    if channels is not None and shape[1] != channels:
        raise InvalidInput(f"The model takes images of {channels} channels, got {shape[1]} (shape {shape}).")


def _input_axes(model: HookedModel) -> int | None:
    """From the spec, or from the convolutions where they are all of one kind."""
    if model.spec.input_size is not None:
        return len(model.spec.input_size) + 1
    axes = {_CONVOLUTIONS[type(m)] for m in model.module.modules() if type(m) in _CONVOLUTIONS}
    return axes.pop() if len(axes) == 1 else None


def _input_channels(model: HookedModel) -> int | None:
    """From the spec alone: the convolution defined first need not be the one that sees the image."""
    return model.spec.input_size[0] if model.spec.input_size is not None else None


def _wrapped(model: nn.Module) -> nn.Module | None:
    """What a wrapper holds; None where the model is no wrapper."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    inner = getattr(model, "_orig_mod", None)  # torch.compile's
    return inner if isinstance(inner, nn.Module) else None


def _frozen_kind(model: nn.Module) -> str | None:
    if isinstance(model, torch.jit.ScriptModule) or type(model).__module__.startswith("torch.jit"):
        return "a traced or scripted module"
    if any(cls.__module__.startswith("torch.export.") for cls in type(model).__mro__):
        return "an exported graph"
    return None
