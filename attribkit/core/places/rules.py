"""What a function of tensors does to the places that their elements come from."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.core.places.coordinates import (
    Coordinates,
    Places,
    agreed,
    constant,
    middle,
    narrowed,
    resized,
    unchanging,
    without_border,
)

Tracked = Callable[[Any], Places | None]
Found = Places | Sequence[Places | None] | None
Rule = Callable[[Tracked, Any, tuple[Any, ...], dict[str, Any], Any], Found]


def rule_for(function: Any) -> Rule | None:
    """How a function moves places; None where that is not known, so that what it makes comes from no place."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return _rearranged if function in _GETTERS else None
    return _RULES.get(name.removesuffix("_") if not name.endswith("__") else name)


def _pointwise(tracked: Tracked, _function: Any, args: Any, kwargs: Any, output: Any) -> Found:
    """Every element comes from those at its own place; of several places that disagree, from none."""
    if not isinstance(output, Tensor):
        return None
    known = [places for each in (*args, *kwargs.values()) if (places := tracked(each))]
    rows = agreed([places.rows for places in known])
    columns = [places.columns for places in known if places.columns]
    both = Places(rows, agreed(columns) if columns else None)
    return both.moved(lambda each: each.expand(output.shape))


def _normalised(tracked: Tracked, function: Any, args: Any, _kwargs: Any, output: Any) -> Found:
    """Pointwise in the first argument; the others are statistics and weights."""
    return _pointwise(tracked, function, args[:1], {}, output)


def _reshaped(tracked: Tracked, _function: Any, args: Any, _kwargs: Any, output: Any) -> Found:
    """The same elements in the same order."""
    places = tracked(args[0])
    return places.moved(lambda each: each.reshape(output.shape)) if places and isinstance(output, Tensor) else None


def _rearranged(tracked: Tracked, function: Any, args: Any, kwargs: Any, _output: Any) -> Found:
    """Elements put elsewhere: the function itself tells where."""
    places = tracked(args[0]) if args else tracked(kwargs.get("input"))
    rest = {key: value for key, value in kwargs.items() if key != "input"}
    return places.moved(lambda each: function(each, *args[1:], **rest)) if places else None


def _padded(tracked: Tracked, _function: Any, args: Any, kwargs: Any, _output: Any) -> Found:
    """What is added comes from no place."""
    places, pad = tracked(args[0]), args[1] if len(args) > 1 else kwargs["pad"]
    return places.moved(lambda each: F.pad(each, pad, value=math.nan)) if places else None


def _stacked(tracked: Tracked, _function: Any, args: Any, kwargs: Any, output: Any) -> Found:
    """Several tensors along an axis of their own."""
    tensors, axis = _several(args, kwargs)
    axis %= output.ndim
    known = [tracked(each) for each in tensors]
    apart = [places and places.moved(lambda each: each.unsqueeze(axis)) for places in known]
    return _in_a_row(apart, [1] * len(tensors), axis, output)


def _concatenated(tracked: Tracked, _function: Any, args: Any, kwargs: Any, output: Any) -> Found:
    """Several tensors in a row; what is not followed comes from no place."""
    tensors, axis = _several(args, kwargs)
    axis %= output.ndim
    whole = [each for each in tensors if each.ndim == output.ndim]  # an old form lets empty ones have one axis
    return _in_a_row([tracked(each) for each in whole], [each.shape[axis] for each in whole], axis, output)


def _several(args: Any, kwargs: Any) -> tuple[Sequence[Tensor], int]:
    tensors = args[0] if args else kwargs["tensors"]
    return tensors, args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))


def _in_a_row(known: Sequence[Places | None], lengths: Sequence[int], axis: int, output: Tensor) -> Places:
    """The coordinates one after the other, widened only along the axes that some of them depend on."""
    axes = max(len(places.rows) for places in known if places)
    nowhere = (torch.full((1,) * output.ndim, math.nan, device=output.device),) * axes
    parts = [narrowed(places.rows) if places else nowhere for places in known]
    sides = [max(part[0].shape[i] for part in parts) for i in range(output.ndim)]
    shapes = [(*sides[:axis], length, *sides[axis + 1 :]) for length in lengths]
    rows = zip(*([each.expand(shape) for each in part] for part, shape in zip(parts, shapes, strict=True)), strict=True)
    return Places(tuple(torch.cat(each, axis).expand(output.shape) for each in rows))


def _written(tracked: Tracked, _function: Any, args: Any, _kwargs: Any, _output: Any) -> Found:
    """A part of the first argument overwritten; the places are those of that argument."""
    target, index, value = args
    before, given = tracked(target), tracked(value)
    if not before:
        return None
    rows = _overwritten(before.rows, index, given.rows if given else None)
    columns = before.columns and _overwritten(before.columns, index, given.columns if given else None)
    return Places(rows, columns)


def _overwritten(coordinates: Coordinates, index: Any, news: Coordinates | None) -> Coordinates:
    written = tuple(each.clone() for each in coordinates)
    values: Sequence[Any] = news or [math.nan] * len(written)
    for each, new in zip(written, values, strict=True):
        each[index] = new
    return written


def _joined(tracked: Tracked, _function: Any, args: Any, kwargs: Any, output: Any) -> Found:
    """One number of several along axes: the middle of their places, if they lie near each other."""
    places = tracked(args[0])
    axes = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    if places is None or axes is None or isinstance(axes, Tensor):
        return None
    keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    several = not isinstance(output, Tensor)
    size = (output[0] if several else output).shape
    joined = Places(tuple(each.expand(size) for each in middle(places.rows, axes, keep)))
    return [joined] * len(output) if several else joined


def _linear(tracked: Tracked, _function: Any, args: Any, _kwargs: Any, output: Any) -> Found:
    """A mixture of the last axis."""
    places = tracked(args[0])
    if places is None:
        return None
    mixed = Places(middle(places.rows, (-1,), True), places.columns and middle(places.columns, (-1,), True))
    return mixed.moved(lambda each: each.expand(output.shape))


def _convolved(tracked: Tracked, _function: Any, args: Any, kwargs: Any, output: Any) -> Found:
    """A mixture of all channels near each place of the output, which lies where its share of the input does."""
    places = tracked(args[0])
    output = output[0] if isinstance(output, tuple) else output
    if places is None or output.ndim < 3 or places.rows[0].ndim != output.ndim:
        return None
    weight, size = args[1] if len(args) > 1 else kwargs["weight"], tuple(output.shape[2:])
    stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
    rows = without_border(middle(places.rows, (1,), True), weight.shape[2:], stride, size)
    columns = middle(places.columns, (1,), True) if places.columns and size == tuple(args[0].shape[2:]) else None
    mixed = Places(tuple(resized(each, size) for each in rows), columns)  # columns, where the heads of weights mix
    return mixed.moved(lambda each: each.expand(output.shape))


def _pooled(tracked: Tracked, function: Any, args: Any, kwargs: Any, output: Any) -> Found:
    """The same, each channel for itself; what is pooled from everywhere comes from no place."""
    places = tracked(args[0])
    several = isinstance(output, tuple)
    size = (output[0] if several else output).shape
    if places is None or places.rows[0].ndim != len(size) or len(size) < 3:
        return None
    space = tuple(range(2, len(size)))
    if all(size[axis] == 1 for axis in space):
        pooled = Places(tuple(each.expand(size) for each in middle(places.rows, space, True)))
    else:
        rows = narrowed(places.rows)
        if getattr(function, "__name__", "") in _WITH_KERNEL:
            kernel = args[1] if len(args) > 1 else kwargs["kernel_size"]
            stride = args[2] if len(args) > 2 else kwargs.get("stride")
            rows = without_border(rows, kernel, stride or kernel, tuple(size[2:]))
        narrow = [resized(each, size[2:]) for each in rows]
        pooled = Places(tuple(each.expand(size) for each in narrow))
    return [pooled] * len(output) if several else pooled


def _product(tracked: Tracked, _function: Any, args: Any, _kwargs: Any, output: Any) -> Found:
    """Rows of the first factor by columns of the second, each where it has one place."""
    first, second = tracked(args[0]), tracked(args[1])
    if args[0].ndim < 2 or args[1].ndim < 2:
        return None
    rows = constant(first.rows, -1, output) if first else None
    columns = constant(second.rows, -2, output) if second else None
    return _between(rows, columns, bool(first))


def _einsum(tracked: Tracked, _function: Any, args: Any, _kwargs: Any, output: Any) -> Found:
    """A product that is told by labels; of two factors, without an ellipsis."""
    inputs, _, result = args[0].replace(" ", "").partition("->")
    labels, factors = inputs.split(","), args[1] if isinstance(args[1], list | tuple) else args[1:]
    if "." in inputs or not result or len(factors) != 2:
        return None
    known = [tracked(each) for each in factors]
    rows, columns = (
        _spread(places.rows, own, result, output) if places else None for places, own in zip(known, labels, strict=True)
    )
    return _between(rows, columns, bool(known[0]))


def _spread(coordinates: Coordinates, labels: str, result: str, output: Tensor) -> Coordinates | None:
    """Coordinates of a factor with these axes over the axes of the result; None if they change along one that goes."""
    for axis, label in reversed(list(enumerate(labels))):
        if label not in result:
            if not unchanging(coordinates, axis):
                return None
            coordinates = tuple(each.select(axis, 0) for each in coordinates)
    kept = [label for label in labels if label in result]
    if len(set(kept)) < len(kept) or all(each.isnan().all() for each in coordinates):
        return None
    order = [kept.index(label) for label in result if label in kept]
    gaps = tuple(slice(None) if label in kept else None for label in result)
    return tuple(each.permute(order)[gaps].expand(output.shape) for each in coordinates)


def _between(rows: Coordinates | None, columns: Coordinates | None, followed: bool) -> Places | None:
    """Of a product; where the first factor is followed but comes from no one place, its row goes by the second's.

    Columns that are several and all at one place are no keys.
    """
    several = columns is not None and columns[0].shape[-1] > 1
    keys = None if several and columns and constant(columns, -1, columns[0]) else columns
    if rows is None:
        return Places(columns, keys if followed else None) if columns else None
    return Places(rows, keys)


def _attended(tracked: Tracked, _function: Any, args: Any, _kwargs: Any, output: Any) -> Found:
    """What attention gathers belongs to the query."""
    queries = tracked(args[0])
    rows = constant(queries.rows, -1, output) if queries else None
    return Places(rows) if rows else None


def _multi_head(tracked: Tracked, _function: Any, args: Any, _kwargs: Any, output: Any) -> Found:
    """The same, of a function that gives the weights as well."""
    return [_attended(tracked, None, args, {}, output[0]), None]  # type: ignore[list-item]


_GETTERS = [getattr(Tensor, name).__get__ for name in ("T", "mT", "data", "real")]

_WITH_KERNEL = {f"{kind}_pool{axes}d" for kind in ("avg", "max") for axes in (1, 2, 3)}

_NAMES: dict[Rule, str] = {
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
        unbind select narrow expand expand_as broadcast_to repeat tile repeat_interleave roll flip rot90 index_select
        gather take_along_dim pixel_shuffle pixel_unshuffle channel_shuffle unfold cuda cpu""",
    _padded: "pad",
    _concatenated: "cat concat concatenate",
    _stacked: "stack",
    _written: "__setitem__",
    _joined: "mean sum amax amin max min median norm logsumexp var std",
    _linear: "linear",
    _convolved: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    _pooled: """
        avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
        max_pool2d_with_indices max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool2d interpolate upsample""",
    _product: "matmul bmm __matmul__ mm",
    _einsum: "einsum",
    _attended: "scaled_dot_product_attention",
    _multi_head: "multi_head_attention_forward",
}
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}
