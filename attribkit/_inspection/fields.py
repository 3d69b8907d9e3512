"""Receptive fields of the entries of a tensor, and the axes of the image that its axes correspond to."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Span:
    """A range of pixels along an axis: unit i depends on first + i * stride to last + i * stride.

    Pixels outside of the image are padding.

    Args:
        first: First pixel of unit 0.
        last: Last pixel of unit 0.
        stride: Pixels between neighbouring units.
    """

    first: int
    last: int
    stride: int

    @property
    def size(self) -> int:
        """The number of pixels that a unit depends on."""
        return self.last - self.first + 1

    def after_window(self, kernel: int, stride: int, before: int, dilation: int) -> "Span":
        """Return the span of a window over these units that starts a number of units before unit 0.

        Size: R + (K - 1) * dilation * S (Araujo, Norris and Sim, Distill 2019, eq. 2); stride: S * stride.
        """
        first = self.first - before * self.stride
        last = self.last + ((kernel - 1) * dilation - before) * self.stride
        return Span(first, last, self.stride * stride)

    def shifted(self, units: int) -> "Span":
        """Return the span with units counted from another unit."""
        return replace(self, first=self.first + units * self.stride, last=self.last + units * self.stride)


@dataclass(frozen=True)
class WholeImage:
    """The range of units that depend on the whole axis.

    Args:
        reason: The operation, and its module.
    """

    reason: str


@dataclass(frozen=True)
class UnknownReach:
    """A range that cannot be determined.

    Args:
        reason: The operation, and its module.
    """

    reason: str


Reach = Span | WholeImage | UnknownReach


def union_of_reach(one: Reach, other: Reach) -> Reach:
    """Return the union of two ranges."""
    if isinstance(one, Span) and isinstance(other, Span):
        if one.stride != other.stride:
            return UnknownReach("it combines branches of different strides")
        return Span(min(one.first, other.first), max(one.last, other.last), one.stride)
    return next(each for kind in (WholeImage, UnknownReach) for each in (one, other) if isinstance(each, kind))


class UntraceableOperation(Exception):
    """An operation whose receptive field cannot be determined; the message gives the reason."""


@dataclass(frozen=True)
class CellFactor:
    """A factor of the size of a tensor's axis, in row-major order.

    Args:
        count: Number of entries.
        space: The axes of the image that the entries run along; () for channels and batch.
        regular: Whether entry i is unit i of the one axis; False for rows of tokens mixed with others.
    """

    count: int
    space: tuple[int, ...] = ()
    regular: bool = True


Axis = tuple[CellFactor, ...]  # a flattened grid has several factors


@dataclass(frozen=True)
class Field:
    """The receptive field of the entries of a tensor.

    Args:
        reach: Range per axis of the image.
        axes: Factors per axis of the tensor; None once they cannot be tracked.
        uneven: Whether some channels depend on less than the reach, which covers all channels.
        bound: The operation that selected some of such channels, which makes the reach an upper bound.
    """

    reach: tuple[Reach, ...]
    axes: tuple[Axis, ...] | None
    uneven: bool = False
    bound: str = ""

    @property
    def known_axes(self) -> tuple[Axis, ...]:
        """The tensor's axes. Raises UntraceableOperation if they cannot be tracked."""
        if self.axes is None:
            raise UntraceableOperation("its axes cannot be tracked")
        return self.axes

    def spaces(self, dims: Iterable[int]) -> set[int]:
        """Return the image's axes that some of the tensor's axes run along."""
        return {k for dim in dims for cells in self.known_axes[dim] for k in cells.space}

    def with_whole_image(self, spaces: Iterable[int], reason: str) -> "Field":
        """Return the field after an operation that reads some of the image's axes completely."""
        spaces = set(spaces)
        return replace(
            self, reach=tuple(WholeImage(reason) if k in spaces else each for k, each in enumerate(self.reach))
        )

    def with_reach(self, space: int, reach: Reach) -> "Field":
        """Return the field with another range along one of the image's axes."""
        return replace(self, reach=(*self.reach[:space], reach, *self.reach[space + 1 :]))

    def span(self, dim: int) -> tuple[int, Span] | None:
        """Return the image's axis that a tensor's axis is the grid of, and its span; None if there is none."""
        factors = [cells for cells in self.known_axes[dim] if cells.space]
        spaces = self.spaces([dim])
        spatial_axes = self.spaces(range(len(self.known_axes)))
        if not spaces and any(isinstance(r, Span) and k not in spatial_axes for k, r in enumerate(self.reach)):
            raise UntraceableOperation("it operates on a grid of one cell")
        if all(isinstance(self.reach[k], WholeImage) for k in spaces):
            return None
        (space, *more) = spaces
        reach = self.reach[space]
        if more or len(self.known_axes[dim]) > 1 or not factors[0].regular or not isinstance(reach, Span):
            raise UntraceableOperation("it operates along rows of tokens")
        return space, reach

    def with_axis(self, dim: int, count: int, *, regular: bool = True) -> "Field":
        """Return the field with another number of entries along an axis."""
        spaces = tuple(sorted(self.spaces([dim])))
        keeps = regular and len(spaces) < 2 and all(cells.regular for cells in self.known_axes[dim])
        axis = () if count == 1 else (CellFactor(count, spaces, keeps or not spaces),)
        return replace(self, axes=(*self.known_axes[:dim], axis, *self.known_axes[dim + 1 :]))


def image_field(shape: Sequence[int]) -> Field:
    """Return the field of the image itself, (b, c, *space): each pixel depends on itself."""
    plain = [non_spatial_axis(size) for size in shape[:2]]
    space = [(CellFactor(size, (k,)),) if size > 1 else () for k, size in enumerate(shape[2:])]
    return Field(tuple(Span(0, 0, 1) for _ in space), (*plain, *space))


def non_spatial_axis(size: int) -> Axis:
    """Return an axis that does not correspond to an axis of the image."""
    return () if size == 1 else (CellFactor(size),)


def combine_fields(fields: Sequence[Field], axes: Sequence[Sequence[Axis]], shape: Sequence[int]) -> Field:
    """Return the field of entries computed from entries of several tensors, axis by axis.

    `axes` has the axes of each tensor, as many as the result has, and () where the tensor has only one entry.
    """
    result = tuple(_common_axis(each, size) for each, size in zip(zip(*axes, strict=True), shape, strict=True))
    spatial_axes = {k for axis in result for cells in axis for k in cells.space}
    reaches = [
        [_reach_of_operand(field, k, each) if k in spatial_axes else field.reach[k] for k in range(len(field.reach))]
        for field, each in zip(fields, axes, strict=True)
    ]
    reach = reaches[0]
    for other in reaches[1:]:
        reach = [union_of_reach(*pair) for pair in zip(reach, other, strict=True)]
    bound = next((field.bound for field in fields if field.bound), "")
    return Field(tuple(reach), result, any(field.uneven for field in fields), bound)


def broadcast_fields(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """Return the field of the result of an elementwise operation."""
    return combine_fields(fields, [[()] * (len(shape) - len(f.known_axes)) + list(f.known_axes) for f in fields], shape)


def reshape_field(field: Field, shape: Sequence[int]) -> Field:
    """Return the field after a reshape."""
    factors = list(_flatten(field.known_axes))
    axes: list[Axis] = []
    for size in shape:
        axis: list[CellFactor] = []
        while size > 1:
            cells = factors.pop(0)
            if cells.count > size or size % cells.count:
                cells, rest = _split_factor(cells, size)
                factors.insert(0, rest)
            size //= cells.count
            axis.append(cells)
        axes.append(_merge_factors(axis))
    return replace(field, axes=tuple(axes))


def _split_factor(cells: CellFactor, size: int) -> tuple[CellFactor, CellFactor]:
    """Split off the slower factor of this size."""
    if cells.space:
        raise UntraceableOperation("it splits the grid into windows")
    if cells.count % size:
        raise UntraceableOperation("it reshapes in a way that cannot be tracked")
    return CellFactor(size), CellFactor(cells.count // size)


def _merge_factors(axis: Sequence[CellFactor]) -> Axis:
    """Merge neighbouring factors that are not spatial."""
    merged: list[CellFactor] = []
    for cells in axis:
        if merged and not merged[-1].space and not cells.space:
            cells = CellFactor(merged.pop().count * cells.count)
        merged.append(cells)
    return tuple(merged)


def _flatten(axes: Iterable[Axis]) -> Iterator[CellFactor]:
    return (cells for axis in axes for cells in axis)


def _common_axis(axes: Sequence[Axis], size: int) -> Axis:
    """Return the axis of a result, from those of the operands."""
    spatial = {axis for axis in axes if any(cells.space for cells in axis)}
    if len(spatial) > 1:
        raise UntraceableOperation("it combines maps whose grids do not match")
    return spatial.pop() if spatial else non_spatial_axis(size)


def _reach_of_operand(field: Field, space: int, axes: Sequence[Axis]) -> Reach:
    """Return the range of an operand along an axis of the image; unknown if it was taken at one position."""
    has_axis = any(space in cells.space for cells in _flatten(axes))
    is_single_position = isinstance(field.reach[space], Span) and not has_axis
    return (
        UnknownReach("it combines a map with the values at one of its positions")
        if is_single_position
        else field.reach[space]
    )
