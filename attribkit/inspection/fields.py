"""[inspection/spans] How far the units of a map see along an axis of the image.
[inspection/fields] What the entries of a tensor see of the image, and along which of its axes they lie as the image does.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Span:
    """Unit i sees the pixels first + i * stride to last + i * stride; those outside of the image are padding."""

    first: int
    last: int
    stride: int  # pixels between neighbours

    @property
    def size(self) -> int:
        """Pixels that a unit sees."""
        return self.last - self.first + 1

    def through(self, kernel: int, stride: int, before: int, dilation: int) -> "Span":
        """What a window of these units sees, the first of which starts so many units before unit 0.

        Size: R + (K - 1) * dilation * S (Araujo, Norris and Sim, Distill 2019, eq. 2); stride: S * stride.
        """
        first = self.first - before * self.stride
        last = self.last + ((kernel - 1) * dilation - before) * self.stride
        return Span(first, last, self.stride * stride)

    def moved(self, units: int) -> "Span":
        """The same, counted from another unit."""
        return replace(self, first=self.first + units * self.stride, last=self.last + units * self.stride)


@dataclass(frozen=True)
class Whole:
    """Every unit sees all of the axis."""

    because: str  # of which operation, and where


@dataclass(frozen=True)
class Unknown:
    """How far a unit sees cannot be told."""

    because: str


Reach = Span | Whole | Unknown


def union_of_reach(one: Reach, other: Reach) -> Reach:
    """What a unit sees that reads both."""
    if isinstance(one, Span) and isinstance(other, Span):
        if one.stride != other.stride:
            return Unknown("branches of different strides meet")
        return Span(min(one.first, other.first), max(one.last, other.last), one.stride)
    return next(each for kind in (Whole, Unknown) for each in (one, other) if isinstance(each, kind))


class Unclear(Exception):
    """An operation whose field cannot be told; the message says why."""


@dataclass(frozen=True)
class CellFactor:
    """A factor of a tensor's axis: so many entries, in the order of rows."""

    count: int
    space: tuple[int, ...] = ()  # the image's axes that they lie along; none for channels and batch
    regular: bool = True  # entry i is unit i of the one axis; False for rows of tokens that have others among them


Axis = tuple[CellFactor, ...]  # a flattened grid has several factors


@dataclass(frozen=True)
class Field:
    """What the entries of a tensor see."""

    reach: tuple[Reach, ...]  # per axis of the image
    axes: tuple[Axis, ...] | None  # per axis of the tensor; None once they cannot be followed
    uneven: bool = False  # some channels see less than the reach, which is that of all of them
    bound: str = ""  # where some of such channels were taken, so that the reach may be more than is seen

    @property
    def followed(self) -> tuple[Axis, ...]:
        """The tensor's axes. Raises Unclear where they cannot be followed."""
        if self.axes is None:
            raise Unclear("its axes cannot be followed")
        return self.axes

    def spaces(self, dims: Iterable[int]) -> set[int]:
        """The image's axes that some of the tensor's axes lie along."""
        return {k for dim in dims for cells in self.followed[dim] for k in cells.space}

    def seeing_all(self, spaces: Iterable[int], because: str) -> "Field":
        """The same after an operation that reads all along some of the image's axes."""
        spaces = set(spaces)
        return replace(self, reach=tuple(Whole(because) if k in spaces else each for k, each in enumerate(self.reach)))

    def seeing(self, space: int, reach: Reach) -> "Field":
        """The same with another reach along one of the image's axes."""
        return replace(self, reach=(*self.reach[:space], reach, *self.reach[space + 1 :]))

    def span(self, dim: int) -> tuple[int, Span] | None:
        """The image's axis that a tensor's axis is the grid of, and its span; None where it has none or sees it all."""
        found = [cells for cells in self.followed[dim] if cells.space]
        spaces = self.spaces([dim])
        along = self.spaces(range(len(self.followed)))
        if not spaces and any(isinstance(r, Span) and k not in along for k, r in enumerate(self.reach)):
            raise Unclear("it works on a grid of one cell")
        if all(isinstance(self.reach[k], Whole) for k in spaces):
            return None
        (space, *more) = spaces
        reach = self.reach[space]
        if more or len(self.followed[dim]) > 1 or not found[0].regular or not isinstance(reach, Span):
            raise Unclear("it works along rows of tokens")
        return space, reach

    def with_axis(self, dim: int, count: int, *, regular: bool = True) -> "Field":
        """The same with another number of entries along an axis."""
        spaces = tuple(sorted(self.spaces([dim])))
        keeps = regular and len(spaces) < 2 and all(cells.regular for cells in self.followed[dim])
        axis = () if count == 1 else (CellFactor(count, spaces, keeps or not spaces),)
        return replace(self, axes=(*self.followed[:dim], axis, *self.followed[dim + 1 :]))


def image_field(shape: Sequence[int]) -> Field:
    """That of the image itself, (b, c, *space): each pixel sees itself."""
    plain = [axis_of(size) for size in shape[:2]]
    space = [(CellFactor(size, (k,)),) if size > 1 else () for k, size in enumerate(shape[2:])]
    return Field(tuple(Span(0, 0, 1) for _ in space), (*plain, *space))


def axis_of(size: int) -> Axis:
    """An axis that has nothing to do with space."""
    return () if size == 1 else (CellFactor(size),)


def united(fields: Sequence[Field], axes: Sequence[Sequence[Axis]], shape: Sequence[int]) -> Field:
    """What entries see that are made of entries of several tensors, axis by axis.

    axes: of each tensor, as many as the result has, with () where it has only one entry.
    """
    result = tuple(_shared(each, size) for each, size in zip(zip(*axes, strict=True), shape, strict=True))
    along = {k for axis in result for cells in axis for k in cells.space}
    reaches = [
        [_anywhere(field, k, each) if k in along else field.reach[k] for k in range(len(field.reach))]
        for field, each in zip(fields, axes, strict=True)
    ]
    reach = reaches[0]
    for other in reaches[1:]:
        reach = [union_of_reach(*pair) for pair in zip(reach, other, strict=True)]
    bound = next((field.bound for field in fields if field.bound), "")
    return Field(tuple(reach), result, any(field.uneven for field in fields), bound)


def broadcast(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """What the entries of an elementwise operation see."""
    return united(fields, [[()] * (len(shape) - len(f.followed)) + list(f.followed) for f in fields], shape)


def regrouped(field: Field, shape: Sequence[int]) -> Field:
    """The same after a reshape."""
    factors = list(_flat(field.followed))
    axes: list[Axis] = []
    for size in shape:
        axis: list[CellFactor] = []
        while size > 1:
            cells = factors.pop(0)
            if cells.count > size or size % cells.count:
                cells, rest = _cut(cells, size)
                factors.insert(0, rest)
            size //= cells.count
            axis.append(cells)
        axes.append(_merged(axis))
    return replace(field, axes=tuple(axes))


def _cut(cells: CellFactor, size: int) -> tuple[CellFactor, CellFactor]:
    """So many of the cells as a factor of their own, slower than the rest."""
    if cells.space:
        raise Unclear("it cuts the grid into windows")
    if cells.count % size:
        raise Unclear("it reshapes in a way that cannot be followed")
    return CellFactor(size), CellFactor(cells.count // size)


def _merged(axis: Sequence[CellFactor]) -> Axis:
    """Neighbouring factors that have nothing to do with space made one."""
    merged: list[CellFactor] = []
    for cells in axis:
        if merged and not merged[-1].space and not cells.space:
            cells = CellFactor(merged.pop().count * cells.count)
        merged.append(cells)
    return tuple(merged)


def _flat(axes: Iterable[Axis]) -> Iterator[CellFactor]:
    return (cells for axis in axes for cells in axis)


def _shared(axes: Sequence[Axis], size: int) -> Axis:
    """One axis of a result, from those of the tensors that it is made of."""
    spatial = {axis for axis in axes if any(cells.space for cells in axis)}
    if len(spatial) > 1:
        raise Unclear("it combines maps whose grids do not match")
    return spatial.pop() if spatial else axis_of(size)


def _anywhere(field: Field, space: int, axes: Sequence[Axis]) -> Reach:
    """A tensor's reach along an axis of the image; where it has no such axis, it was taken at one place."""
    has = any(space in cells.space for cells in _flat(axes))
    fixed = isinstance(field.reach[space], Span) and not has
    return Unknown("it combines a map with what was read at one place of it") if fixed else field.reach[space]
