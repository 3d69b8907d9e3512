"""Rules by which each operation of an autograd graph changes the receptive fields of its operands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.autograd.graph import Node

from attribkit._core.autograd import operation_name
from attribkit._inspection.fields import (
    Axis,
    Field,
    Span,
    UntraceableOperation,
    broadcast_fields,
    combine_fields,
    non_spatial_axis,
    reshape_field,
)


@dataclass(frozen=True)
class Step:
    """An operation of a forward.

    Args:
        node: The operation.
        output: Index of the result that is used.
        inputs: Field of each operand; None if it does not depend on the image.
        shape: Shape of the result.
        location: The operation and its module, for reasons.
    """

    node: Node
    output: int
    inputs: Sequence[Field | None]
    shape: tuple[int, ...]
    location: str

    @property
    def fields(self) -> list[Field]:
        """The fields of the operands that depend on the image."""
        return [field for field in self.inputs if field is not None]

    @property
    def field(self) -> Field:
        """The field of the only operand that depends on the image."""
        if len(self.fields) != 1:
            raise UntraceableOperation("more than one of its operands depends on the image")
        return self.fields[0]

    def saved(self, name: str) -> Any:
        """Return an argument that the operation saved; autograd saves sizes as unsigned integers."""
        return _as_signed(getattr(self.node, f"_saved_{name}"))

    def has(self, name: str) -> bool:
        """Return whether the operation saved such an argument."""
        return hasattr(self.node, f"_saved_{name}")


def is_attention(node: Node) -> bool:
    """Return whether an operation is scaled dot product attention; its name depends on the device."""
    return "Attention" in operation_name(node)


def propagate_field(step: Step) -> Field:
    """Return the field of the result of an operation.

    Raises:
        UntraceableOperation: If it cannot be determined.
    """
    name = operation_name(step.node)
    if is_attention(step.node):
        return _attention(step)
    if name not in _RULES:
        raise UntraceableOperation("attribkit does not have a rule for it")
    return _RULES[name](step)


def _elementwise(step: Step) -> Field:
    return broadcast_fields(step.fields, step.shape)


def _reshape(step: Step) -> Field:
    return reshape_field(step.field, step.shape)


def _convolution(step: Step) -> Field:
    if len(step.inputs) > 1 and any(step.inputs[1:]):
        raise UntraceableOperation("its kernel depends on the image")
    kernel = tuple(step.saved("weight").shape[2:])
    dilation, stride, padding = (step.saved(name) for name in ("dilation", "stride", "padding"))
    field = step.field.with_whole_image(
        step.field.spaces([1]), step.location
    )  # spatial positions as channels are summed over
    field = field.with_axis(1, step.shape[1])
    for i, size in enumerate(kernel):
        if step.saved("transposed") and (size > 1 or stride[i] > 1) and field.span(2 + i):
            raise UntraceableOperation("neighbouring units of a transposed convolution have fields of different shapes")
        field = _slide_window(field, 2 + i, step.shape[2 + i], size, stride[i], padding[i], dilation[i])
    return replace(_with_non_spatial_axis(field, 1, step.shape), uneven=field.uneven and step.saved("groups") > 1)


def _with_non_spatial_axis(field: Field, dim: int, shape: Sequence[int]) -> Field:
    """Return the field with an axis that does not correspond to an axis of the image."""
    return replace(field, axes=(*field.known_axes[:dim], non_spatial_axis(shape[dim]), *field.known_axes[dim + 1 :]))


def _pooling(step: Step) -> Field:
    kernel = step.saved("kernel_size")
    stride = step.saved("stride") or kernel
    padding = step.saved("padding")
    dilation = step.saved("dilation") if step.has("dilation") else (1,) * len(kernel)
    field, first = step.field, len(step.shape) - len(kernel)
    for i, size in enumerate(kernel):
        field = _slide_window(field, first + i, step.shape[first + i], size, stride[i], padding[i], dilation[i])
    return field


def _adaptive_pooling(step: Step) -> Field:
    before, field = tuple(step.saved("self").shape), step.field
    for dim in range(2, len(step.shape)):
        if step.shape[dim] == 1:
            field = field.with_whole_image(field.spaces([dim]), step.location).with_axis(dim, 1)
        elif before[dim] % step.shape[dim]:
            if field.span(dim):
                raise UntraceableOperation("its windows differ in size")
            field = field.with_axis(dim, step.shape[dim])
        else:
            window = before[dim] // step.shape[dim]
            field = _slide_window(field, dim, step.shape[dim], window, window, 0, 1)
    return field


def _pixel_unshuffle(step: Step) -> Field:
    factor, field = step.saved("downscale_factor"), step.field
    for dim in (-2, -1):
        field = _slide_window(field, len(step.shape) + dim, step.shape[dim], factor, factor, 0, 1)
    return field.with_axis(len(step.shape) - 3, step.shape[-3])


def _slide_window(field: Field, dim: int, count: int, kernel: int, stride: int, padding: int, dilation: int) -> Field:
    """Slide a window along an axis."""
    if kernel == stride == dilation == 1 and padding == 0:
        return field
    spatial = field.span(dim)
    if spatial:
        field = field.with_reach(spatial[0], spatial[1].after_window(kernel, stride, padding, dilation))
    return field.with_axis(dim, count)


def _batch_norm(step: Step) -> Field:
    uses_batch_statistics = not step.has("training") or step.saved("training")
    dims = [dim for dim in range(len(step.shape)) if dim != 1] if uses_batch_statistics else []
    return step.field.with_whole_image(step.field.spaces(dims), step.location)


def _group_norm(step: Step) -> Field:
    return step.field.with_whole_image(step.field.spaces(range(1, len(step.shape))), step.location)


def _layer_norm(step: Step) -> Field:
    axes = len(step.saved("normalized_shape"))
    field = step.field.with_whole_image(
        step.field.spaces(range(len(step.shape) - axes, len(step.shape))), step.location
    )
    return replace(field, uneven=False)


def _whole_axis(step: Step) -> Field:
    """Apply an operation in which every entry reads all of an axis, which remains."""
    return step.field.with_whole_image(step.field.spaces([step.saved("dim")]), step.location)


def _reduction(step: Step) -> Field:
    field = step.field
    rank = len(field.known_axes)
    dim = step.saved("dim") if step.has("dim") else None
    dims = {d % rank for d in ((dim,) if isinstance(dim, int) else dim or range(rank))}
    field = field.with_whole_image(field.spaces(dims), step.location)
    kept = [axis for d, axis in enumerate(field.known_axes) if d not in dims]
    with_kept_dims = [() if d in dims else axis for d, axis in enumerate(field.known_axes)]
    axes = tuple(kept if len(step.shape) == len(kept) else with_kept_dims)
    return replace(field, axes=axes, uneven=field.uneven and 1 not in dims)


def _matrix_product(step: Step) -> Field:
    """Multiply rows by columns, the last two operands; operands before them are added."""
    added, (left, right) = step.inputs[:-2], step.inputs[-2:]
    rank = len(step.shape)
    products = [_contract(field, dim, step.location) for field, dim in ((left, -1), (right, -2)) if field]
    if left and right:
        both = products[0].spaces([rank - 2]) & products[1].spaces([rank - 1])
        products = [each.with_whole_image(both, step.location) for each in products]
    axes: list[list[Axis]] = []
    if left:
        axes.append([*products[0].known_axes[:-1], ()])
    if right:
        right_axes = products[-1].known_axes
        axes.append([*right_axes[:-2], (), right_axes[-1]])
    result = combine_fields(products, axes, step.shape)
    return broadcast_fields([result, *(each for each in added if each)], step.shape)


def _contract(field: Field, dim: int, location: str) -> Field:
    """Sum over an axis of an operand."""
    return replace(field.with_whole_image(field.spaces([len(field.known_axes) + dim]), location), uneven=False)


def _attention(step: Step) -> Field:
    """Apply scaled dot product attention: every query reads all keys and values."""
    if step.output:
        raise UntraceableOperation("an output other than its result is used")
    query, *memory = step.inputs[:3]
    rank = len(step.shape)
    spaces = {k for each in memory if each for k in each.spaces([rank - 2])}
    fields = [each.with_whole_image(spaces, step.location) for each in (query, *memory) if each]
    batch = fields[0].known_axes[: rank - 2]
    queries = query.known_axes[-2] if query else non_spatial_axis(step.shape[-2])
    return combine_fields(fields, [[*batch, queries, non_spatial_axis(step.shape[-1])]] * len(fields), step.shape)


def _permute_axes(step: Step, order: Sequence[int]) -> Field:
    axes = step.field.known_axes
    return replace(step.field, axes=tuple(axes[dim] for dim in order))


def _permute(step: Step) -> Field:
    return _permute_axes(step, step.saved("dims"))


def _transpose(step: Step) -> Field:
    rank = len(step.shape)
    one, other = ((step.saved(f"dim{i}") if step.has("dim0") else i) % rank for i in (0, 1))
    order = list(range(rank))
    order[one], order[other] = other, one
    return _permute_axes(step, order)


def _slice(step: Step) -> Field:
    dim, size = step.saved("dim"), step.saved("self_sym_sizes")
    return _sliced(step, dim % len(size), step.saved("start"), step.saved("step"), size)


def _split(step: Step) -> Field:
    sizes, dim = step.saved("self_sym_sizes"), step.saved("dim") % len(step.shape)
    start = (
        sum(step.saved("split_sizes")[: step.output])
        if step.has("split_sizes")
        else step.output * step.saved("split_size")
    )
    return _sliced(step, dim, start, 1, sizes)


def _sliced(step: Step, dim: int, start: int, step_size: int, before: Sequence[int]) -> Field:
    """Take some entries of an axis."""
    if step.shape[dim] == before[dim]:
        return step.field
    field = _as_upper_bound(step, dim)
    start = max(0, start + before[dim]) if start < 0 else start
    regular = len(field.known_axes[dim]) == 1 and field.known_axes[dim][0].regular
    spatial = field.span(dim) if regular else None
    if spatial:
        space, span = spatial
        shifted = span.shifted(start)
        field = field.with_reach(space, Span(shifted.first, shifted.last, shifted.stride * step_size))
    elif step_size > 1 and field.spaces([dim]):
        raise UntraceableOperation("it takes every n-th of a row of tokens")
    return field.with_axis(dim, step.shape[dim], regular=regular)


def _as_upper_bound(step: Step, dim: int) -> Field:
    """Mark the reach as an upper bound if some of several channels with different fields are taken."""
    uneven = step.field.uneven and not step.field.spaces([dim])
    return replace(step.field, bound=step.field.bound or step.location) if uneven else step.field


def _select(step: Step) -> Field:
    dim = step.saved("dim") % (len(step.shape) + 1)
    return _indexed(_as_upper_bound(step, dim), dim, step.saved("index") % step.saved("self_sym_sizes")[dim])


def _unbind(step: Step) -> Field:
    dim = step.saved("dim") % (len(step.shape) + 1)
    return _indexed(_as_upper_bound(step, dim), dim, step.output)


def _indexed(field: Field, dim: int, index: int) -> Field:
    """Take one entry of an axis."""
    spatial = field.span(dim)
    if spatial:
        space, span = spatial
        field = field.with_reach(space, span.shifted(index))
    return replace(field, axes=(*field.known_axes[:dim], *field.known_axes[dim + 1 :]))


def _concatenation(step: Step) -> Field:
    dim = step.saved("dim") % len(step.shape)
    along = {k for field in step.fields for k in field.spaces([dim])}
    if not along:
        fields = [_with_non_spatial_axis(each, dim, step.shape) for each in step.fields]
        return _join_channels(fields, step.shape)
    if len(step.fields) > 1:
        raise UntraceableOperation("it concatenates parts of the image")
    return step.field.with_axis(dim, step.shape[dim], regular=False)


def _stack(step: Step) -> Field:
    dim = step.saved("dim") % len(step.shape)
    fields = [replace(f, axes=(*f.known_axes[:dim], (), *f.known_axes[dim:])) for f in step.fields]
    return _join_channels(fields, step.shape)


def _join_channels(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """Concatenate the channels of several maps."""
    field = broadcast_fields(fields, shape)
    return replace(field, uneven=field.uneven or any(each.reach != field.reach for each in fields))


def _padding(step: Step) -> Field:
    """Pad with zeros, or mirrored or repeated values, which only units at the border depend on."""
    pads, field = step.saved("pad" if step.has("pad") else "padding"), step.field
    for i in range(len(pads) // 2):
        before, after = pads[2 * i : 2 * i + 2]
        dim = len(step.shape) - 1 - i
        if not before == after == 0:
            spatial = field.span(dim)
            if spatial:
                field = field.with_reach(spatial[0], spatial[1].shifted(-before))
            field = field.with_axis(dim, step.shape[dim])
    return field


def _expand(step: Step) -> Field:
    return broadcast_fields([step.field], step.shape)


def _reordered(step: Step) -> Field:
    """Reorder or repeat entries along some axes, which must not be spatial."""
    field = step.field
    if step.has("repeats"):
        repeats = step.saved("repeats")
        field = broadcast_fields([field], (1,) * (len(repeats) - len(field.known_axes)) + tuple(_sizes(field)))
        dims = [dim for dim, times in enumerate(repeats) if times > 1]
    else:
        dims = [1] if step.has("groups") else [dim % len(step.shape) for dim in step.saved("dims")]
    if field.spaces(dims):
        raise UntraceableOperation("it reorders the grid cells of the image")
    for dim in dims:
        field = field.with_axis(dim, step.shape[dim])
    return field


def _sizes(field: Field) -> list[int]:
    sizes = []
    for axis in field.known_axes:
        size = 1
        for cells in axis:
            size *= cells.count
        sizes.append(size)
    return sizes


def _as_signed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_signed(each) for each in value)
    return value - 2**64 if isinstance(value, int) and not isinstance(value, bool) and value >= 2**63 else value


_NAMES: dict[Callable[[Step], Field], str] = {
    _elementwise: "Abs Add Addcdiv Addcmul Alias Atan Celu Clamp ClampMax ClampMin Clone Cos Div Elu Erf Exp Expm1 "
    "Gelu Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu Lerp Log Log1P LogSigmoid Maximum Minimum Mish Mul Neg "
    "Pow PreluKernel Reciprocal Relu Rsqrt Rsub Selu Sigmoid Sign Silu Sin Softplus Softshrink Sqrt Sub Tanh "
    "Threshold ToCopy Where",
    _convolution: "Convolution",
    _pooling: "MaxPool2DWithIndices MaxPool3DWithIndices AvgPool2D AvgPool3D",
    _adaptive_pooling: "AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D",
    _batch_norm: "NativeBatchNorm CudnnBatchNorm MiopenBatchNorm",
    _group_norm: "NativeGroupNorm",
    _layer_norm: "NativeLayerNorm FusedRmsNorm",
    _whole_axis: "Softmax SafeSoftmax LogSoftmax Cumsum",
    _reduction: "Mean Sum Max Min Amax Amin Var Std Logsumexp LinalgVectorNorm Norm",
    _matrix_product: "Mm Addmm Bmm Baddbmm",
    _reshape: "View UnsafeView ReshapeAlias Squeeze Unsqueeze",
    _permute: "Permute",
    _transpose: "Transpose T",
    _slice: "Slice",
    _split: "Split SplitWithSizes UnsafeSplit",
    _select: "Select",
    _unbind: "Unbind",
    _concatenation: "Cat",
    _stack: "Stack",
    _padding: "ConstantPadNd ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D "
    "ReplicationPad3D",
    _expand: "Expand",
    _reordered: "Roll Flip Repeat ChannelShuffle",
    _pixel_unshuffle: "PixelUnshuffle",
}
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}
