"""Validation of models and images, the order of the axes of images, and guards around the code of plugins."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from attribkit._core.annotations import describe_plugin
from attribkit._core.axes import ImageAxes
from attribkit._core.errors import AttribkitError, InvalidInput, UnsupportedModel
from attribkit._core.inputs import Inputs
from attribkit._engine.model import HookedModel
from attribkit._tracing.first_layer import FirstLayer, first_layer

_COLOURS = 4  # maximum number of channels of a photograph


def unwrap_model(model: Any) -> nn.Module:
    """Return the module inside wrappers of torch.compile and data parallelism.

    Raises:
        UnsupportedModel: If it is not a module, if hooks do not fire in it (traced, scripted or exported models), or if
            it cannot be differentiated (quantised, lazy, without parameters, or made in inference mode).
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"A model must be a torch.nn.Module, got {type(model).__name__}.")
    while (inner := _wrapped(model)) is not None:
        model = inner
    for module in model.modules():
        kind = _converted_kind(module)
        if kind:
            raise UnsupportedModel(
                f"{type(module).__name__} is {kind}: hooks do not run in it, so its layers cannot be read. Pass the "
                "original, unconverted module."
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
        raise UnsupportedModel(f"{type(model).__name__} has lazy modules: run it once to initialise their parameters.")
    if any(tensor.is_inference() for tensor in [*parameters, *model.buffers()]):
        raise UnsupportedModel(
            f"{type(model).__name__} was created under torch.inference_mode, so its tensors do not support gradients: "
            "create it outside inference mode, or pass copy.deepcopy(model)."
        )
    if not any(parameter.is_floating_point() for parameter in parameters):
        raise UnsupportedModel(
            f"{type(model).__name__} does not have floating-point parameters: pass the network itself; if it is "
            "quantised, pass the original floating-point network."
        )


def check_images(x: Any, model: HookedModel) -> None:
    """Raise InvalidInput for images whose type, dtype, device, shape or values do not fit the model."""
    if not isinstance(x, Tensor):
        raise InvalidInput(f"Images must be a torch.Tensor (b, c, *space), got {type(x).__name__}{_advice(x)}.")
    like = next(p for p in model.module.parameters() if p.is_floating_point())
    _check_shape(tuple(x.shape), model)
    if not x.is_floating_point():
        raise InvalidInput(
            f"Images must be floating-point tensors, got {x.dtype}: convert raw pixels to floats and normalise them as "
            "the model expects."
        )
    if x.device != like.device:
        raise InvalidInput(
            f"The images are on {x.device} and the model is on {like.device}: pass x.to({str(like.device)!r})."
        )
    if x.dtype != like.dtype:
        raise InvalidInput(f"The images are {x.dtype} and the model is {like.dtype}: pass x.to({like.dtype}).")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        wrong = (~finite).nonzero().flatten().tolist()
        raise InvalidInput(f"Images {wrong} have NaN or infinite values: check how they were loaded and normalised.")


def _advice(x: Any) -> str:
    """Return how to convert an object that is not a tensor."""
    if isinstance(x, Mapping):
        keys = ", ".join(map(repr, x))
        return (
            f" of {keys}: only one input can be explained at a time. Name it with Explainer(model, image=...), pass "
            "its tensor as x, and the other inputs as inputs={name: tensor}"
        )
    if isinstance(x, list | tuple):
        return (
            f" of {len(x)} entries: use torch.stack for images of one size. If the model has several inputs, pass the "
            "tensor of the explained one as x and the others as inputs={name: tensor}"
        )
    return ": convert an array with torch.as_tensor(x)"


def image_axes(x: Tensor, model: HookedModel, inputs: Inputs) -> ImageAxes:
    """Return the order of the axes of images: as the model's spec declares, or as the model's first layer reads x.

    The model must be frozen.

    Args:
        x: Images in the order of axes that the model expects.
        model: The model.
        inputs: The other inputs of the model, a row for each image.

    Raises:
        InvalidInput: If the first layer expects another number of channels or axes.
    """
    declared = None if model.spec.axes is None else ImageAxes(model.spec.axes)
    if model.spec.input_size is not None:
        return declared or ImageAxes.of(x.ndim)
    key = (tuple(x.shape[1:]), inputs.kind)
    if declared is None and key in model.usual_axes:
        return ImageAxes.of(x.ndim)
    spec, two = replace(model.spec, axes=None), slice(0, min(2, len(x)))
    inputs_of_two = inputs.subset(two)

    def call(images: Tensor) -> None:
        args, keywords = spec.arguments(images, inputs_of_two.arguments())
        model.module(*args, **keywords)

    try:
        first = first_layer(call, x[two])
    except Exception as error:  # raised by the model itself; the later call raises it again
        if x.ndim < 4 and declared is None:
            raise InvalidInput(
                f"The model's own forward does not accept images of shape {tuple(x.shape)} ({error}). Images are "
                "batches (b, c, *space): add a missing batch axis with x[None], or declare a different axis order "
                "with ModelSpec(axes=...)."
            ) from error
        return declared or ImageAxes.of(x.ndim)
    if first is not None:
        _check_first_layer(first, x, model, declared)
    axes = declared or _inferred_axes(first, x)
    if axes.is_channels_first:
        model.usual_axes.add(key)
    return axes


def _check_first_layer(first: FirstLayer, x: Tensor, model: HookedModel, declared: ImageAxes | None) -> None:
    """Raise InvalidInput if the first layer with weights does not accept the axes or channels of the images."""
    shape, name = tuple(x.shape), first.name(model.module)
    expects = f"the first layer, {name!r}, is a convolution that expects {first.weight.ndim} axes (b, c, *space)"
    if not first.fits:
        raise InvalidInput(f"The images have the shape {shape}, but {expects} and gets {len(first.shape)}.")
    if not first.batched and declared is None and (first.mixes_images or not first.mixed()):
        raise InvalidInput(f"The batch axis is missing in images of shape {shape}: {expects}. Add it: x[None].")
    got = first.shape[first.channel_axis]
    if got != first.takes:
        others = [i for i, side in enumerate(shape) if i and side == first.takes]
        hint = f" Axis {others[0]} has size {first.takes}: check the order of the axes." if others else ""
        raise InvalidInput(
            f"The model expects images with {first.takes} channels, got {got} (shape {shape}): its first {first.kind}, "
            f"{name!r}, has {first.takes} input channels.{hint}"
        )


def _inferred_axes(first: FirstLayer | None, x: Tensor) -> ImageAxes:
    """Infer the order of the axes: the channels are the axis that the first layer mixes."""
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
        f'Images must have the shape (b, c, *space), got {tuple(x.shape)}: for series, pass ModelSpec(axes="bn").'
    )


def _mixed_axes(first: FirstLayer, x: Tensor, mixed: list[int]) -> ImageAxes:
    """Return the axes with the mixed axis as channels, if it is a single one other than axis 1 and is plausible."""
    side, axis = x.shape[mixed[0]], mixed[0]
    if len(mixed) > 1 or axis == 1:
        return ImageAxes.of(x.ndim)
    if x.shape[1] == 1:  # either one channel and many slices, or one frame and a few colours
        plausible = side <= _COLOURS
    else:
        plausible = first.kind == "convolution" or (side < x.shape[1] and first.apart(1))
    return ImageAxes.of(x.ndim, axis if plausible else 1)


def _grey_axes(first: FirstLayer, x: Tensor) -> ImageAxes:
    """Infer the axes for one channel: a single-entry axis after separate frames, or none where axis 1 is space."""
    single = [axis for axis in range(2, x.ndim) if x.shape[axis] == 1]
    if x.ndim > 3 and first.apart(1) and len(single) == 1:
        return ImageAxes.of(x.ndim, single[0])
    return ImageAxes.of(x.ndim, None if first.spread(1) else 1)


def _check_shape(shape: tuple[int, ...], model: HookedModel) -> None:
    """Raise InvalidInput unless the shape agrees with the spec; a forward checks the rest."""
    size, letters = model.spec.input_size, model.spec.axes
    expected = len(letters) if letters else len(size) + 1 if size is not None else None
    if expected is not None and len(shape) != expected:
        order = str(ImageAxes(letters)) if letters else "(b, c, *space)"
        hint = " Add the batch axis: x[None]." if len(shape) == expected - 1 else ""
        raise InvalidInput(f"The model expects images with {expected} axes {order}, got shape {shape}.{hint}")
    if len(shape) < 2:
        raise InvalidInput(f"Images must have the shape (b, c, *space), got {shape}.")
    if 0 in shape:
        raise InvalidInput(f"Images of shape {shape} are empty: pass at least one image.")
    channels = ImageAxes(letters).channels if letters else 1
    if size is not None and channels is not None and shape[channels] != size[0]:
        where = "" if channels == 1 else f" on axis {channels}"
        raise InvalidInput(
            f"The model expects images with {size[0]} channels{where}, got {shape[channels]} (shape {shape})."
        )


def _wrapped(model: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper, or None."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    inner = getattr(model, "_orig_mod", None)  # torch.compile's
    return inner if isinstance(inner, nn.Module) else None


def _converted_kind(model: nn.Module) -> str | None:
    if isinstance(model, torch.jit.ScriptModule) or type(model).__module__.startswith("torch.jit"):
        return "a traced or scripted module"
    if any(cls.__module__.startswith("torch.export.") for cls in type(model).__mro__):
        return "an exported graph"
    return None


@contextmanager
def refuse_exits(plugin: object) -> Iterator[None]:
    """Convert a SystemExit of a method, metric or visualizer into an AttribkitError that names it."""
    try:
        yield
    except SystemExit as error:
        raise AttribkitError(
            f"{describe_plugin(plugin)} "
            f"raised SystemExit({error.code!r}), but a plugin must not exit the program: change it "
            "to raise another error, or do not use it."
        ) from error


@contextmanager
def read_only(plugin: object, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise AttribkitError if a plugin writes into tensors, and restore their values, even after another error.

    Values are compared, since writes through ``.data`` or NumPy do not increase the version counter of a tensor. A
    gradient or a `requires_grad` flag is removed without an error.

    Args:
        plugin: The method, metric or visualizer, for the message.
        tensors: The tensors by the names that the message uses.
    """
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        written = [name for name, tensor in tensors.items() if _restore_if_written(tensor, copies[name])]
    if written:
        raise AttribkitError(
            f"{describe_plugin(plugin)} "
            f"modified {written[0]} in place, but they are shared with other code: change it to modify a "
            "copy, tensor.clone()."
        )


def _restore_if_written(tensor: Tensor, copy: Tensor) -> bool:
    """Restore the values of a tensor that differs from its copy, and return whether it did."""
    if tensor.requires_grad and not tensor.is_inference():
        tensor.requires_grad_(False) if tensor.is_leaf else tensor.detach_()
        tensor.grad = None
    if tensor.shape == copy.shape and torch.equal(tensor, copy):
        return False
    tensor.data = copy
    return True
