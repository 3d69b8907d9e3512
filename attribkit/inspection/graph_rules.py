"""What each operation of an autograd graph does to the fields of its operands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.autograd.graph import Node

from attribkit.core.autograd import operation_name
from attribkit.inspection.fields import Axis, Field, Span, Unclear, axis_of, broadcast, regrouped, united


@dataclass(frozen=True)
class Step:
    """An operation of a forward."""

    node: Node
    output: int  # which of its results is asked for
    inputs: Sequence[Field | None]  # of each operand; None where it does not depend on the image
    shape: tuple[int, ...]  # of the result
    place: str  # what it is and where, for a reason

    @property
    def fields(self) -> list[Field]:
        """Of the operands that depend on the image."""
        return [field for field in self.inputs if field is not None]

    @property
    def field(self) -> Field:
        """Of the one operand that may depend on the image."""
        if len(self.fields) != 1:
            raise Unclear("several of its operands depend on the image")
        return self.fields[0]

    def saved(self, name: str) -> Any:
        """What the operation was called with; sizes come without a sign."""
        return _signed(getattr(self.node, f"_saved_{name}"))

    def has(self, name: str) -> bool:
        """Whether the operation was called with such a thing."""
        return hasattr(self.node, f"_saved_{name}")


def is_attention(node: Node) -> bool:
    """Whether an operation is scaled dot product attention; it has a name for each kind of device."""
    return "Attention" in operation_name(node)


def field_after(step: Step) -> Field:
    """What the entries of an operation's result see. Raises Unclear where that cannot be told."""
    name = operation_name(step.node)
    if is_attention(step.node):
        return _attention(step)
    if name not in _RULES:
        raise Unclear("no rule is known for it")
    return _RULES[name](step)


def _elementwise(step: Step) -> Field:
    return broadcast(step.fields, step.shape)


def _reshape(step: Step) -> Field:
    return regrouped(step.field, step.shape)


def _convolution(step: Step) -> Field:
    if len(step.inputs) > 1 and any(step.inputs[1:]):
        raise Unclear("its kernel depends on the image")
    kernel = tuple(step.saved("weight").shape[2:])
    dilation, stride, padding = (step.saved(word) for word in ("dilation", "stride", "padding"))
    field = step.field.seeing_all(step.field.spaces([1]), step.place)  # channels that are places: a sum over space
    field = field.with_axis(1, step.shape[1])
    for i, size in enumerate(kernel):
        if step.saved("transposed") and (size > 1 or stride[i] > 1) and field.span(2 + i):
            raise Unclear("neighbouring units of a transposed convolution see different shapes")
        field = _windows(field, 2 + i, step.shape[2 + i], size, stride[i], padding[i], dilation[i])
    return replace(_plain(field, 1, step.shape), uneven=field.uneven and step.saved("groups") > 1)


def _plain(field: Field, dim: int, shape: Sequence[int]) -> Field:
    """With an axis that has nothing to do with space."""
    return replace(field, axes=(*field.followed[:dim], axis_of(shape[dim]), *field.followed[dim + 1 :]))


def _pooling(step: Step) -> Field:
    kernel = step.saved("kernel_size")
    stride = step.saved("stride") or kernel
    padding = step.saved("padding")
    dilation = step.saved("dilation") if step.has("dilation") else (1,) * len(kernel)
    field, first = step.field, len(step.shape) - len(kernel)
    for i, size in enumerate(kernel):
        field = _windows(field, first + i, step.shape[first + i], size, stride[i], padding[i], dilation[i])
    return field


def _adaptive_pooling(step: Step) -> Field:
    before, field = tuple(step.saved("self").shape), step.field
    for dim in range(2, len(step.shape)):
        if step.shape[dim] == 1:
            field = field.seeing_all(field.spaces([dim]), step.place).with_axis(dim, 1)
        elif before[dim] % step.shape[dim]:
            if field.span(dim):
                raise Unclear("its windows differ in size")
            field = field.with_axis(dim, step.shape[dim])
        else:
            window = before[dim] // step.shape[dim]
            field = _windows(field, dim, step.shape[dim], window, window, 0, 1)
    return field


def _pixel_unshuffle(step: Step) -> Field:
    factor, field = step.saved("downscale_factor"), step.field
    for dim in (-2, -1):
        field = _windows(field, len(step.shape) + dim, step.shape[dim], factor, factor, 0, 1)
    return field.with_axis(len(step.shape) - 3, step.shape[-3])


def _windows(field: Field, dim: int, count: int, kernel: int, stride: int, padding: int, dilation: int) -> Field:
    """A window slid along an axis."""
    if kernel == stride == dilation == 1 and padding == 0:
        return field
    found = field.span(dim)
    if found:
        field = field.seeing(found[0], found[1].through(kernel, stride, padding, dilation))
    return field.with_axis(dim, count)


def _batch_norm(step: Step) -> Field:
    of_the_batch = not step.has("training") or step.saved("training")
    dims = [dim for dim in range(len(step.shape)) if dim != 1] if of_the_batch else []
    return step.field.seeing_all(step.field.spaces(dims), step.place)


def _group_norm(step: Step) -> Field:
    return step.field.seeing_all(step.field.spaces(range(1, len(step.shape))), step.place)


def _layer_norm(step: Step) -> Field:
    axes = len(step.saved("normalized_shape"))
    field = step.field.seeing_all(step.field.spaces(range(len(step.shape) - axes, len(step.shape))), step.place)
    return replace(field, uneven=False)


def _along(step: Step) -> Field:
    """An operation in which every entry reads all of an axis, which stays."""
    return step.field.seeing_all(step.field.spaces([step.saved("dim")]), step.place)


def _reduction(step: Step) -> Field:
    field = step.field
    rank = len(field.followed)
    dim = step.saved("dim") if step.has("dim") else None
    dims = {d % rank for d in ((dim,) if isinstance(dim, int) else dim or range(rank))}
    field = field.seeing_all(field.spaces(dims), step.place)
    kept = [axis for d, axis in enumerate(field.followed) if d not in dims]
    in_place = [() if d in dims else axis for d, axis in enumerate(field.followed)]
    axes = tuple(kept if len(step.shape) == len(kept) else in_place)
    return replace(field, axes=axes, uneven=field.uneven and 1 not in dims)


def _matrix_product(step: Step) -> Field:
    """Rows times columns, the last two operands; what comes before them is added."""
    added, (left, right) = step.inputs[:-2], step.inputs[-2:]
    rank = len(step.shape)
    products = [_contracted(field, dim, step.place) for field, dim in ((left, -1), (right, -2)) if field]
    if left and right:
        both = products[0].spaces([rank - 2]) & products[1].spaces([rank - 1])
        products = [each.seeing_all(both, step.place) for each in products]
    axes: list[list[Axis]] = []
    if left:
        axes.append([*products[0].followed[:-1], ()])
    if right:
        own = products[-1].followed
        axes.append([*own[:-2], (), own[-1]])
    result = united(products, axes, step.shape)
    return broadcast([result, *(each for each in added if each)], step.shape)


def _contracted(field: Field, dim: int, place: str) -> Field:
    """An operand, an axis of which is summed over."""
    return replace(field.seeing_all(field.spaces([len(field.followed) + dim]), place), uneven=False)


def _attention(step: Step) -> Field:
    """Scaled dot product attention: every query reads all the keys and values."""
    if step.output:
        raise Unclear("not its result is read, but something beside it")
    query, *memory = step.inputs[:3]
    rank = len(step.shape)
    spaces = {k for each in memory if each for k in each.spaces([rank - 2])}
    fields = [each.seeing_all(spaces, step.place) for each in (query, *memory) if each]
    batch = fields[0].followed[: rank - 2]
    queries = query.followed[-2] if query else axis_of(step.shape[-2])
    return united(fields, [[*batch, queries, axis_of(step.shape[-1])]] * len(fields), step.shape)


def _permuted(step: Step, order: Sequence[int]) -> Field:
    axes = step.field.followed
    return replace(step.field, axes=tuple(axes[dim] for dim in order))


def _permute(step: Step) -> Field:
    return _permuted(step, step.saved("dims"))


def _transpose(step: Step) -> Field:
    rank = len(step.shape)
    one, other = ((step.saved(f"dim{i}") if step.has("dim0") else i) % rank for i in (0, 1))
    order = list(range(rank))
    order[one], order[other] = other, one
    return _permuted(step, order)


def _slice(step: Step) -> Field:
    dim, size = step.saved("dim"), step.saved("self_sym_sizes")
    return _part(step, dim % len(size), step.saved("start"), step.saved("step"), size)


def _split(step: Step) -> Field:
    sizes, dim = step.saved("self_sym_sizes"), step.saved("dim") % len(step.shape)
    start = (
        sum(step.saved("split_sizes")[: step.output])
        if step.has("split_sizes")
        else step.output * step.saved("split_size")
    )
    return _part(step, dim, start, 1, sizes)


def _part(step: Step, dim: int, start: int, every: int, before: Sequence[int]) -> Field:
    """Some entries of an axis."""
    if step.shape[dim] == before[dim]:
        return step.field
    field = _bounded(step, dim)
    start = max(0, start + before[dim]) if start < 0 else start
    regular = len(field.followed[dim]) == 1 and field.followed[dim][0].regular
    found = field.span(dim) if regular else None
    if found:
        space, span = found
        moved = span.moved(start)
        field = field.seeing(space, Span(moved.first, moved.last, moved.stride * every))
    elif every > 1 and field.spaces([dim]):
        raise Unclear("it takes some of a row of tokens")
    return field.with_axis(dim, step.shape[dim], regular=regular)


def _bounded(step: Step, dim: int) -> Field:
    """The operand, a part of an axis of which is taken: of channels that see differently, the reach is of all."""
    uneven = step.field.uneven and not step.field.spaces([dim])
    return replace(step.field, bound=step.field.bound or step.place) if uneven else step.field


def _select(step: Step) -> Field:
    dim = step.saved("dim") % (len(step.shape) + 1)
    return _without(_bounded(step, dim), dim, step.saved("index") % step.saved("self_sym_sizes")[dim])


def _unbind(step: Step) -> Field:
    dim = step.saved("dim") % (len(step.shape) + 1)
    return _without(_bounded(step, dim), dim, step.output)


def _without(field: Field, dim: int, index: int) -> Field:
    """One entry of an axis."""
    found = field.span(dim)
    if found:
        space, span = found
        field = field.seeing(space, span.moved(index))
    return replace(field, axes=(*field.followed[:dim], *field.followed[dim + 1 :]))


def _concatenation(step: Step) -> Field:
    dim = step.saved("dim") % len(step.shape)
    along = {k for field in step.fields for k in field.spaces([dim])}
    if not along:
        fields = [_plain(each, dim, step.shape) for each in step.fields]
        return _beside(fields, step.shape)
    if len(step.fields) > 1:
        raise Unclear("it puts parts of the image side by side")
    return step.field.with_axis(dim, step.shape[dim], regular=False)


def _stack(step: Step) -> Field:
    dim = step.saved("dim") % len(step.shape)
    fields = [replace(f, axes=(*f.followed[:dim], (), *f.followed[dim:])) for f in step.fields]
    return _beside(fields, step.shape)


def _beside(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """The channels of several maps in a row."""
    field = broadcast(fields, shape)
    return replace(field, uneven=field.uneven or any(each.reach != field.reach for each in fields))


def _padding(step: Step) -> Field:
    """Zeros, or what is mirrored or repeated at the border, which only units there see."""
    pads, field = step.saved("pad" if step.has("pad") else "padding"), step.field
    for i in range(len(pads) // 2):
        before, after = pads[2 * i : 2 * i + 2]
        dim = len(step.shape) - 1 - i
        if not before == after == 0:
            found = field.span(dim)
            if found:
                field = field.seeing(found[0], found[1].moved(-before))
            field = field.with_axis(dim, step.shape[dim])
    return field


def _expand(step: Step) -> Field:
    return broadcast([step.field], step.shape)


def _shuffled(step: Step) -> Field:
    """What changes the order of entries along some axes, or repeats them; harmless along channels."""
    field = step.field
    if step.has("repeats"):
        repeats = step.saved("repeats")
        field = broadcast([field], (1,) * (len(repeats) - len(field.followed)) + tuple(_sizes(field)))
        dims = [dim for dim, times in enumerate(repeats) if times > 1]
    else:
        dims = [1] if step.has("groups") else [dim % len(step.shape) for dim in step.saved("dims")]
    if field.spaces(dims):
        raise Unclear("it puts the image's cells elsewhere")
    for dim in dims:
        field = field.with_axis(dim, step.shape[dim])
    return field


def _sizes(field: Field) -> list[int]:
    sizes = []
    for axis in field.followed:
        size = 1
        for cells in axis:
            size *= cells.count
        sizes.append(size)
    return sizes


def _signed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_signed(each) for each in value)
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
    _along: "Softmax SafeSoftmax LogSoftmax Cumsum",
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
    _shuffled: "Roll Flip Repeat ChannelShuffle",
    _pixel_unshuffle: "PixelUnshuffle",
}
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}
