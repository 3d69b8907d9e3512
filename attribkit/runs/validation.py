"""Who may come in: models whose hooks fire, and images that fit the model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from attribkit.core.axes import ImageAxes
from attribkit.core.errors import InvalidInput, UnsupportedModel
from attribkit.core.inputs import Inputs
from attribkit.engine.model import HookedModel
from attribkit.tracing.first_layer import FirstLayer, first_layer

_COLOURS = 4  # channels of a photograph, at most


def unwrap_model(model: Any) -> nn.Module:
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


def image_axes(x: Tensor, model: HookedModel, inputs: Inputs) -> ImageAxes:
    """The axes of images that a frozen model takes: those that its spec tells, or else what its first layer sees of x.

    Raises InvalidInput where that layer takes another number of channels or axes.
    """
    declared = None if model.spec.axes is None else ImageAxes(model.spec.axes)
    if model.spec.input_size is not None:
        return declared or ImageAxes.of(x.ndim)
    key = (tuple(x.shape[1:]), inputs.kind)
    if declared is None and key in model.usual_axes:
        return ImageAxes.of(x.ndim)
    own, two = replace(model.spec, axes=None), slice(0, min(2, len(x)))
    more = inputs.subset(two)

    def call(images: Tensor) -> None:
        args, keywords = own.arguments(images, more.arguments())
        model.module(*args, **keywords)

    try:
        first = first_layer(call, x[two])
    except Exception as error:  # the model's own, which the real call raises too
        if x.ndim < 4 and declared is None:
            raise InvalidInput(
                f"The model's own forward does not take images of shape {tuple(x.shape)} ({error}). It takes batches "
                "(b, c, *space): add the batch axis, x[None], if there is none; declare others by ModelSpec(axes=...)."
            ) from error
        return declared or ImageAxes.of(x.ndim)
    if first is not None:
        _check_first(first, x, model, declared)
    axes = declared or _seen_axes(first, x)
    if axes.is_usual:
        model.usual_axes.add(key)
    return axes


def _check_first(first: FirstLayer, x: Tensor, model: HookedModel, declared: ImageAxes | None) -> None:
    """Refuse images whose axes or channels the first layer that they meet does not take."""
    shape, name = tuple(x.shape), first.name(model.module)
    takes = f"layer {name!r}, the first that they meet, is a convolution of {first.weight.ndim} axes (b, c, *space)"
    if not first.fits:
        raise InvalidInput(f"The images have the shape {shape}, and {takes}, which gets {len(first.shape)} of them.")
    if not first.batched and declared is None and (first.mixes_images or not first.mixed()):
        raise InvalidInput(f"The batch axis is missing in images of shape {shape}: {takes}. Add it: x[None].")
    got = first.shape[first.channel_axis]
    if got != first.takes:
        others = [i for i, side in enumerate(shape) if i and side == first.takes]
        hint = f" Axis {others[0]} has {first.takes}: are the axes of the images in another order?" if others else ""
        raise InvalidInput(
            f"The model takes images of {first.takes} channels, got {got} (shape {shape}): layer {name!r}, the first "
            f"{first.kind} that they meet, takes {first.takes}.{hint}"
        )


def _seen_axes(first: FirstLayer | None, x: Tensor) -> ImageAxes:
    """What a model makes of the axes of images: the channels are what its first layer mixes."""
    usual = ImageAxes.of(x.ndim) if x.ndim > 2 else None
    if first is None or x.ndim < 3:
        axes = None if first is None or not first.spread(1) else ImageAxes.of(2, None)
    elif mixed := first.mixed():
        axes = _mixed_axes(first, x, mixed)
    elif first.kind == "convolution" and first.is_grey:
        axes = _grey_axes(first, x)
    else:
        axes = usual
    if axes or usual:
        return axes or usual  # type: ignore[return-value]
    raise InvalidInput(
        f'Images must have the shape (b, c, *space), got {tuple(x.shape)}: declare a series as ModelSpec(axes="bn").'
    )


def _mixed_axes(first: FirstLayer, x: Tensor, mixed: list[int]) -> ImageAxes:
    """Where one axis alone is mixed as channels, and axis 1 is not, that one is the channels' axis."""
    side, axis = x.shape[mixed[0]], mixed[0]
    if len(mixed) > 1 or axis == 1:
        return ImageAxes.of(x.ndim)
    if x.shape[1] == 1:  # one channel of many slices, or one frame of few colours
        plausible = side <= _COLOURS
    else:
        plausible = first.kind == "convolution" or (side < x.shape[1] and first.apart(1))
    return ImageAxes.of(x.ndim, axis if plausible else 1)


def _grey_axes(first: FirstLayer, x: Tensor) -> ImageAxes:
    """Of one channel: an axis of one entry behind frames that are kept apart, or none where axis 1 is space."""
    single = [axis for axis in range(2, x.ndim) if x.shape[axis] == 1]
    if x.ndim > 3 and first.apart(1) and len(single) == 1:
        return ImageAxes.of(x.ndim, single[0])
    return ImageAxes.of(x.ndim, None if first.spread(1) else 1)


def _check_shape(shape: tuple[int, ...], model: HookedModel) -> None:
    """Compare with what the spec tells; what it does not tell, a forward does."""
    size, letters = model.spec.input_size, model.spec.axes
    expected = len(letters) if letters else len(size) + 1 if size is not None else None
    if expected is not None and len(shape) != expected:
        order = str(ImageAxes(letters)) if letters else "(b, c, *space)"
        hint = " Add the batch axis: x[None]." if len(shape) == expected - 1 else ""
        raise InvalidInput(f"The model takes images of {expected} axes {order}, got shape {shape}.{hint}")
    if len(shape) < 2:
        raise InvalidInput(f"Images must have the shape (b, c, *space), got {shape}.")
    if 0 in shape:
        raise InvalidInput(f"There is nothing to explain in images of shape {shape}: pass at least one image.")
    channels = ImageAxes(letters).channels if letters else 1
    if size is not None and channels is not None and shape[channels] != size[0]:
        where = "" if channels == 1 else f" on axis {channels}"
        raise InvalidInput(
            f"The model takes images of {size[0]} channels{where}, got {shape[channels]} (shape {shape})."
        )


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
