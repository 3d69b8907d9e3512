"""What a function of tensors does to the places that their elements come from."""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import MethodDescriptorType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.coordinates.coordinates import (
    CellCoordinates,
    Coordinates,
    common_coordinates,
    comparable_coordinates,
    join_cells,
    midpoint,
    without_border,
    without_expanded_axes,
)
from attribkit.coordinates.products import (
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
    weighted_coordinates,
)
from attribkit.coordinates.windows import (
    WindowCentre,
    gather_cells,
    middle_taps,
    sample_cells,
    transposed_window_centres,
    window_centres,
)
from attribkit.coordinates.writes import copy_writes, index_additions, index_writes, scatter_writes, strided_view


def rule_for(function: Any) -> CoordinateRule | None:
    """How a function moves places; None where that is not known, so that what it makes comes from no place."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return _rearranged if function in _GETTERS else None
    return _RULES.get(name.removesuffix("_") if not name.endswith("__") else name)


def _pointwise(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Every element comes from those at its own place; of several places that disagree, from none."""
    if not isinstance(output, Tensor):
        return None
    known = comparable_coordinates([places for each in (*args, *kwargs.values()) if (places := tracked(each))])
    rows = common_coordinates([places.rows for places in known])
    columns = [places.columns for places in known if places.columns]
    both = known[0].put(rows, common_coordinates(columns) if columns else None)
    return both.moved(lambda each: each.expand(output.shape))


def _normalised(tracked: CoordinateLookup, function: Any, args: Any, _kwargs: Any, output: Any) -> TrackedResult:
    """Pointwise in the first argument; the others are statistics and weights."""
    return _pointwise(tracked, function, args[:1], {}, output)


def _reshaped(tracked: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any) -> TrackedResult:
    """The same elements in the same order."""
    places = tracked(args[0])
    return places.moved(lambda each: each.reshape(output.shape)) if places and isinstance(output, Tensor) else None


def _ordered(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Elements put into the order of their values along an axis, or some of them."""
    places = tracked(args[0] if args else kwargs.get("input"))
    axis = _along(args[2 if getattr(function, "__name__", "") == "topk" else 1 :], kwargs)
    moved = places and places.moved(lambda each: each.gather(axis, output[1]))
    return [moved, None]


def _along(rest: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """The axis that a sort goes along."""
    numbers = [each for each in rest if isinstance(each, int) and not isinstance(each, bool)]
    axis: int = kwargs.get("dim", numbers[-1] if numbers else -1)
    return axis


def _unfolded(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Windows put into rows; what their padding adds comes from no place."""
    places = tracked(args[0] if args else kwargs.get("input"))
    if isinstance(function, MethodDescriptorType):
        return _rearranged(tracked, function, args, kwargs, output)
    rest = {key: value for key, value in kwargs.items() if key != "input"}

    def change(each: Tensor) -> Tensor:
        shifted = function(each + 1, *args[1:], **rest)
        return (shifted - 1).where(shifted != 0, math.nan)

    return places.moved(change) if places else None


def _folded(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """Windows laid over each other."""
    places = tracked(args[0] if args else kwargs.get("input"))
    rest = {key: value for key, value in kwargs.items() if key != "input"}
    return places and places.put(weighted_coordinates(places, lambda each: function(each, *args[1:], **rest)))


def _strided(tracked: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, _output: Any) -> TrackedResult:
    """A view of the storage in other steps."""
    return strided_view(tracked(args[0]), args[0], *args[1:])


def _rearranged(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """Elements put elsewhere: the function itself tells where."""
    places = tracked(args[0]) if args else tracked(kwargs.get("input"))
    rest = {key: value for key, value in kwargs.items() if key != "input"}
    return places.moved(lambda each: function(each, *args[1:], **rest)) if places else None


def _padded(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """What is added comes from no place."""
    places, pad = tracked(args[0]), args[1] if len(args) > 1 else kwargs["pad"]
    return places.moved(lambda each: F.pad(each, pad, value=math.nan)) if places else None


def _stacked(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Several tensors along an axis of their own."""
    tensors, axis = _several(args, kwargs)
    axis %= output.ndim
    known = [tracked(each) for each in tensors]
    apart = [places and places.moved(lambda each: each.unsqueeze(axis)) for places in known]
    return _in_a_row(apart, [1] * len(tensors), axis, output)


def _concatenated(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Several tensors in a row; what is not followed comes from no place."""
    tensors, axis = _several(args, kwargs)
    axis %= output.ndim
    whole = [each for each in tensors if each.ndim == output.ndim]  # an old form lets empty ones have one axis
    return _in_a_row([tracked(each) for each in whole], [each.shape[axis] for each in whole], axis, output)


def _several(args: Any, kwargs: Any) -> tuple[Sequence[Tensor], int]:
    tensors = args[0] if args else kwargs["tensors"]
    return tensors, args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))


def _in_a_row(
    known: Sequence[CellCoordinates | None], lengths: Sequence[int], axis: int, output: Tensor
) -> CellCoordinates:
    """The coordinates one after the other, widened only along the axes that some of them depend on."""
    followed = iter(comparable_coordinates([places for places in known if places]))
    known = [next(followed) if places else None for places in known]
    one = next(places for places in known if places)
    empty = (torch.full((1,) * output.ndim, math.nan, device=output.device, dtype=torch.float32),) * len(one.rows)
    parts = [without_expanded_axes(places.rows) if places else empty for places in known]
    sides = [max(part[0].shape[i] for part in parts) for i in range(output.ndim)]
    shapes = [(*sides[:axis], length, *sides[axis + 1 :]) for length in lengths]
    rows = zip(*([each.expand(shape) for each in part] for part, shape in zip(parts, shapes, strict=True)), strict=True)
    return one.put(tuple(torch.cat(each, axis).expand(output.shape) for each in rows))


def _joined(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """One number of several along axes: the middle of their places, if they lie near each other."""
    places = tracked(args[0])
    axes = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    if isinstance(kwargs.get("other", axes), Tensor):
        return _pointwise(tracked, _function, args, kwargs, output)  # the larger or the smaller of two
    if places is None or axes is None or isinstance(axes, Tensor):
        return None
    keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    several = not isinstance(output, Tensor)
    size = (output[0] if several else output).shape
    one = join_cells(places, axes, keep).moved(lambda each: each.expand(size))
    return [one] * len(output) if several else one


def _convolved(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """A mixture of all channels near each place of the output."""
    output = output[0] if isinstance(output, tuple) else output
    given = _named(("input", "weight", "bias", "stride", "padding", "dilation"), args, kwargs)
    places = tracked(given["input"])
    if places is None or output.ndim < 3 or places.rows[0].ndim != output.ndim:
        return None
    kernel, size = tuple(given["weight"].shape[2:]), tuple(output.shape[2:])
    stride = given.get("stride", 1)
    mixed = join_cells(places, (1,), True)
    rows = without_border(mixed.rows, kernel, stride, size)
    columns = midpoint(places.columns, (1,), True) if places.columns and size == tuple(args[0].shape[2:]) else None
    options = (stride, given.get("padding", 0), given.get("dilation", 1), len(size))
    window = window_centres(kernel, *options, middle_taps(given["weight"]))
    return _spread(mixed, gather_cells(mixed, rows, size), columns, output, window)


def _transposed(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """The same of a convolution that enlarges."""
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    given = _named(names, args, kwargs)
    places, size = tracked(given["input"]), tuple(output.shape[2:])
    if places is None or output.ndim < 3 or places.rows[0].ndim != output.ndim:
        return None
    options = (given.get("stride", 1), given.get("padding", 0), given.get("dilation", 1), len(size))
    mixed = join_cells(places, (1,), True)
    window = transposed_window_centres(*options, middle_taps(given["weight"]))
    return _spread(mixed, gather_cells(mixed, mixed.rows, size), None, output, window)


def _spread(
    before: CellCoordinates, rows: Coordinates, columns: Coordinates | None, output: Tensor, window: WindowCentre | None
) -> CellCoordinates:
    """Coordinates on the output's grid, (b, d, *space), as wide as the output; before: the places of the input."""
    sampling = sample_cells(before, rows, window)
    found = replace(before, rows=rows, columns=columns, sampling=sampling)  # columns, where the heads of weights mix
    return found.moved(lambda each: each.expand(output.shape))


def _pooled(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """The same, each channel for itself; what is pooled from everywhere comes from no place."""
    places = tracked(args[0] if args else kwargs.get("input"))
    several = isinstance(output, tuple)
    output = output[0] if several else output
    size, name = output.shape, getattr(function, "__name__", "")
    if places is None or places.rows[0].ndim != len(size) or len(size) < 3:
        return None
    space = tuple(range(2, len(size)))
    rows = without_expanded_axes(places.rows)
    window: WindowCentre | None
    if name.removesuffix("_with_indices") in _WITH_KERNEL:
        given = _named(("input", "kernel_size", "stride", "padding", "dilation"), args, kwargs)
        kernel, stride = given["kernel_size"], given.get("stride") or given["kernel_size"]
        dilation = given.get("dilation", 1) if name.startswith("max") else 1
        window = window_centres(kernel, stride, given.get("padding", 0), dilation, len(space))
        rows = without_border(rows, kernel, stride, tuple(size[2:]))
    else:
        names = ("input", "size", "scale_factor", "mode", "align_corners")
        corners = name in ("interpolate", "upsample") and _named(names, args, kwargs).get("align_corners")
        window = _stretching(rows[0].shape[2:], size[2:]) if corners else None
    rows = (
        midpoint(rows, space, True) if all(size[axis] == 1 for axis in space) else gather_cells(places, rows, size[2:])
    )
    pooled = _spread(places, rows, None, output, window)
    return [pooled, None] if several else pooled


def _stretching(old: Sequence[int], new: Sequence[int]) -> WindowCentre:
    """The outermost cells stay where they are, as align_corners has it."""
    return lambda axis, cell: cell * (old[axis] - 1) / max(new[axis] - 1, 1)


def _named(names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by their names."""
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
    _joined: "mean sum amax amin max min median norm logsumexp var std",
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
