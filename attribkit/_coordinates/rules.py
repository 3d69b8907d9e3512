"""Rules for how each function of torch changes the image coordinates of tensor elements."""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import MethodDescriptorType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit._coordinates.coordinates import (
    CellCoordinates,
    Positions,
    common_positions,
    comparable_coordinates,
    join_cells,
    midpoint,
    without_border,
    without_expanded_axes,
)
from attribkit._coordinates.products import (
    CoordinateLookup,
    CoordinateRule,
    TrackedResult,
    attention_coordinates,
    einsum_coordinates,
    linear_coordinates,
    multi_head_coordinates,
    product_coordinates,
    tensordot_coordinates,
    warped_coordinates,
    weighted_positions,
)
from attribkit._coordinates.windows import (
    WindowCentre,
    gather_cells,
    middle_taps,
    sample_cells,
    transposed_window_centres,
    window_centres,
)
from attribkit._coordinates.writes import copy_writes, index_additions, index_writes, scatter_writes, strided_view


def rule_for(function: Any) -> CoordinateRule | None:
    """Return the coordinate rule of a function; None if the positions of its result are unknown."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return _rearranged if function in _GETTERS else None
    return _RULES.get(name.removesuffix("_") if not name.endswith("__") else name)


def _pointwise(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Keep the positions of an elementwise function; NaN where the positions of the operands differ."""
    if not isinstance(output, Tensor):
        return None
    operands = comparable_coordinates(
        [coordinates for each in (*args, *kwargs.values()) if (coordinates := lookup(each))]
    )
    positions = common_positions([coordinates.positions for coordinates in operands])
    key_positions = [coordinates.key_positions for coordinates in operands if coordinates.key_positions]
    both = operands[0].with_positions(positions, common_positions(key_positions) if key_positions else None)
    return both.rearrange(lambda each: each.expand(output.shape))


def _normalised(lookup: CoordinateLookup, function: Any, args: Any, _kwargs: Any, output: Any) -> TrackedResult:
    """Keep the positions of the first argument; the others are statistics and weights."""
    return _pointwise(lookup, function, args[:1], {}, output)


def _reshaped(lookup: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any) -> TrackedResult:
    """Reshape positions, in the order of the elements."""
    coordinates = lookup(args[0])
    return (
        coordinates.rearrange(lambda each: each.reshape(output.shape))
        if coordinates and isinstance(output, Tensor)
        else None
    )


def _ordered(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Reorder positions as the elements are sorted, or selected, along an axis."""
    coordinates = lookup(args[0] if args else kwargs.get("input"))
    axis = _sort_axis(args[2 if getattr(function, "__name__", "") == "topk" else 1 :], kwargs)
    ordered = coordinates and coordinates.rearrange(lambda each: each.gather(axis, output[1]))
    return [ordered, None]


def _sort_axis(rest: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Return the axis of a sort."""
    numbers = [each for each in rest if isinstance(each, int) and not isinstance(each, bool)]
    axis: int = kwargs.get("dim", numbers[-1] if numbers else -1)
    return axis


def _unfolded(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Extract windows of positions; padding has unknown positions."""
    coordinates = lookup(args[0] if args else kwargs.get("input"))
    if isinstance(function, MethodDescriptorType):
        return _rearranged(lookup, function, args, kwargs, output)
    rest = {key: value for key, value in kwargs.items() if key != "input"}

    def change(each: Tensor) -> Tensor:
        shifted = function(each + 1, *args[1:], **rest)
        return (shifted - 1).where(shifted != 0, math.nan)

    return coordinates.rearrange(change) if coordinates else None


def _folded(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """Average the positions of overlapping windows."""
    coordinates = lookup(args[0] if args else kwargs.get("input"))
    rest = {key: value for key, value in kwargs.items() if key != "input"}
    return coordinates and coordinates.with_positions(
        weighted_positions(coordinates, lambda each: function(each, *args[1:], **rest))
    )


def _strided(lookup: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, _output: Any) -> TrackedResult:
    """View the storage of the positions with other strides."""
    return strided_view(lookup(args[0]), args[0], *args[1:])


def _rearranged(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """Apply the function itself to the positions."""
    coordinates = lookup(args[0]) if args else lookup(kwargs.get("input"))
    rest = {key: value for key, value in kwargs.items() if key != "input"}
    return coordinates.rearrange(lambda each: function(each, *args[1:], **rest)) if coordinates else None


def _padded(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """Pad with unknown positions."""
    coordinates, pad = lookup(args[0]), args[1] if len(args) > 1 else kwargs["pad"]
    return coordinates.rearrange(lambda each: F.pad(each, pad, value=math.nan)) if coordinates else None


def _stacked(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Stack the positions of several tensors along a new axis."""
    tensors, axis = _tensors_and_axis(args, kwargs)
    axis %= output.ndim
    inputs = [lookup(each) for each in tensors]
    unsqueezed = [coordinates and coordinates.rearrange(lambda each: each.unsqueeze(axis)) for coordinates in inputs]
    return _concatenate(unsqueezed, [1] * len(tensors), axis, output)


def _concatenated(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Concatenate the positions of several tensors; tensors without coordinates have unknown positions."""
    tensors, axis = _tensors_and_axis(args, kwargs)
    axis %= output.ndim
    tensors = [each for each in tensors if each.ndim == output.ndim]  # torch allows empty tensors of one axis
    return _concatenate([lookup(each) for each in tensors], [each.shape[axis] for each in tensors], axis, output)


def _tensors_and_axis(args: Any, kwargs: Any) -> tuple[Sequence[Tensor], int]:
    tensors = args[0] if args else kwargs["tensors"]
    return tensors, args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))


def _concatenate(
    operands: Sequence[CellCoordinates | None], lengths: Sequence[int], axis: int, output: Tensor
) -> CellCoordinates:
    """Concatenate positions, expanded only along the axes that some of them depend on."""
    tracked = iter(comparable_coordinates([coordinates for coordinates in operands if coordinates]))
    operands = [next(tracked) if coordinates else None for coordinates in operands]
    first = next(coordinates for coordinates in operands if coordinates)
    empty = (torch.full((1,) * output.ndim, math.nan, device=output.device, dtype=torch.float32),) * len(
        first.positions
    )
    parts = [without_expanded_axes(coordinates.positions) if coordinates else empty for coordinates in operands]
    sides = [max(part[0].shape[i] for part in parts) for i in range(output.ndim)]
    shapes = [(*sides[:axis], length, *sides[axis + 1 :]) for length in lengths]
    positions = zip(
        *([each.expand(shape) for each in part] for part, shape in zip(parts, shapes, strict=True)), strict=True
    )
    return first.with_positions(tuple(torch.cat(each, axis).expand(output.shape) for each in positions))


def _reduced(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Compute the midpoint along the reduced axes, where the positions are close to each other."""
    coordinates = lookup(args[0])
    axes = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    if isinstance(kwargs.get("other", axes), Tensor):
        return _pointwise(lookup, _function, args, kwargs, output)  # elementwise maximum or minimum
    if coordinates is None or axes is None or isinstance(axes, Tensor):
        return None
    keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    returns_tuple = not isinstance(output, Tensor)
    size = (output[0] if returns_tuple else output).shape
    first = join_cells(coordinates, axes, keep).rearrange(lambda each: each.expand(size))
    return [first] * len(output) if returns_tuple else first


def _convolved(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Join all channels, and move to the cells of the output of a convolution."""
    output = output[0] if isinstance(output, tuple) else output
    arguments = _by_name(("input", "weight", "bias", "stride", "padding", "dilation"), args, kwargs)
    coordinates = lookup(arguments["input"])
    if coordinates is None or output.ndim < 3 or coordinates.positions[0].ndim != output.ndim:
        return None
    kernel, size = tuple(arguments["weight"].shape[2:]), tuple(output.shape[2:])
    stride = arguments.get("stride", 1)
    mixed = join_cells(coordinates, (1,), True)
    positions = without_border(mixed.positions, kernel, stride, size)
    key_positions = (
        midpoint(coordinates.key_positions, (1,), True)
        if coordinates.key_positions and size == tuple(args[0].shape[2:])
        else None
    )
    options = (stride, arguments.get("padding", 0), arguments.get("dilation", 1), len(size))
    window = window_centres(kernel, *options, middle_taps(arguments["weight"]))
    return _spread(mixed, gather_cells(mixed, positions, size), key_positions, output, window)


def _transposed(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Join all channels, and move to the cells of the output of a transposed convolution."""
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    arguments = _by_name(names, args, kwargs)
    coordinates, size = lookup(arguments["input"]), tuple(output.shape[2:])
    if coordinates is None or output.ndim < 3 or coordinates.positions[0].ndim != output.ndim:
        return None
    options = (arguments.get("stride", 1), arguments.get("padding", 0), arguments.get("dilation", 1), len(size))
    mixed = join_cells(coordinates, (1,), True)
    window = transposed_window_centres(*options, middle_taps(arguments["weight"]))
    return _spread(mixed, gather_cells(mixed, mixed.positions, size), None, output, window)


def _spread(
    before: CellCoordinates,
    positions: Positions,
    key_positions: Positions | None,
    output: Tensor,
    window: WindowCentre | None,
) -> CellCoordinates:
    """Expand positions on the output's grid, (b, d, *space), to the output; `before` has the input's coordinates."""
    sampling = sample_cells(before, positions, window)
    after = replace(
        before, positions=positions, key_positions=key_positions, sampling=sampling
    )  # keys remain where a model mixes heads
    return after.rearrange(lambda each: each.expand(output.shape))


def _pooled(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Move each channel to the cells of the output; after pooling over the whole image, positions are unknown."""
    coordinates = lookup(args[0] if args else kwargs.get("input"))
    returns_tuple = isinstance(output, tuple)
    output = output[0] if returns_tuple else output
    size, name = output.shape, getattr(function, "__name__", "")
    if coordinates is None or coordinates.positions[0].ndim != len(size) or len(size) < 3:
        return None
    space = tuple(range(2, len(size)))
    positions = without_expanded_axes(coordinates.positions)
    window: WindowCentre | None
    if name.removesuffix("_with_indices") in _WITH_KERNEL:
        arguments = _by_name(("input", "kernel_size", "stride", "padding", "dilation"), args, kwargs)
        kernel, stride = arguments["kernel_size"], arguments.get("stride") or arguments["kernel_size"]
        dilation = arguments.get("dilation", 1) if name.startswith("max") else 1
        window = window_centres(kernel, stride, arguments.get("padding", 0), dilation, len(space))
        positions = without_border(positions, kernel, stride, tuple(size[2:]))
    else:
        names = ("input", "size", "scale_factor", "mode", "align_corners")
        corners = name in ("interpolate", "upsample") and _by_name(names, args, kwargs).get("align_corners")
        window = _aligned_corners(positions[0].shape[2:], size[2:]) if corners else None
    positions = (
        midpoint(positions, space, True)
        if all(size[axis] == 1 for axis in space)
        else gather_cells(coordinates, positions, size[2:])
    )
    pooled = _spread(coordinates, positions, None, output, window)
    return [pooled, None] if returns_tuple else pooled


def _aligned_corners(old: Sequence[int], new: Sequence[int]) -> WindowCentre:
    """Keep the outermost cells in place, as align_corners=True does."""
    return lambda axis, cell: cell * (old[axis] - 1) / max(new[axis] - 1, 1)


def _by_name(names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return positional and keyword arguments by name."""
    return dict(zip(names, args, strict=False)) | kwargs


_GETTERS = [getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "data", "real")]

_WITH_KERNEL = {f"{kind}_pool{axes}d" for kind in ("avg", "max") for axes in (1, 2, 3)}

_NAMES: dict[CoordinateRule, str] = {
    _pointwise: """
        add sub mul div true_divide rsub neg pow square sqrt rsqrt exp log log1p abs sigmoid tanh relu relu6 gelu silu
        mish elu selu celu leaky_relu prelu rrelu softplus softsign hardswish hardsigmoid hardtanh hardshrink threshold
        logsigmoid erf sin cos clamp clamp_min clamp_max clip maximum minimum dropout dropout1d dropout2d dropout3d
        alpha_dropout feature_dropout softmax log_softmax float half double bfloat16 to type type_as clone contiguous
        detach requires_grad where masked_fill nan_to_num addcmul lerp reciprocal floor_divide round normalize
        __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__
        __itruediv__ __pow__ __rpow__ __neg__""",
    _normalised: "layer_norm rms_norm group_norm batch_norm instance_norm local_response_norm native_layer_norm",
    _reshaped: "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel",
    _rearranged: """
        permute transpose movedim moveaxis swapaxes swapdims t __getitem__ chunk split split_with_sizes tensor_split
        unbind select narrow expand expand_as broadcast_to repeat tile repeat_interleave roll flip fliplr flipud
        rot90 index_select gather take_along_dim take masked_select diagonal hsplit vsplit dsplit unsafe_chunk
        unsafe_split narrow_copy select_copy pixel_shuffle pixel_unshuffle channel_shuffle cuda cpu""",
    _strided: "as_strided",
    _ordered: "sort topk",
    _unfolded: "unfold",
    _folded: "fold",
    _padded: "pad",
    _concatenated: "cat concat concatenate",
    _stacked: "stack",
    index_writes: "__setitem__",
    copy_writes: "copy",
    scatter_writes: "scatter index_copy masked_scatter select_scatter slice_scatter diagonal_scatter",
    index_additions: "scatter_add index_add index_put",
    _reduced: "mean sum amax amin max min median norm logsumexp var std",
    _convolved: "conv1d conv2d conv3d",
    _transposed: "conv_transpose1d conv_transpose2d conv_transpose3d",
    _pooled: """
        avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
        max_pool2d_with_indices max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool2d interpolate upsample""",
    linear_coordinates: "linear",
    product_coordinates: "matmul bmm __matmul__ __rmatmul__ mm mv addmm baddbmm",
    einsum_coordinates: "einsum",
    tensordot_coordinates: "tensordot",
    warped_coordinates: "grid_sample",
    attention_coordinates: "scaled_dot_product_attention",
    multi_head_coordinates: "multi_head_attention_forward",
}
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}
