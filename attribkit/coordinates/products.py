"""What products do to places: those of queries and keys, and those with a matrix that the images do not decide."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_letters
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.coordinates.coordinates import (
    CellCoordinates,
    Coordinates,
    constant,
    is_constant_along,
    join_cells,
    midpoint,
    no_coordinates,
    without_expanded_axes,
)

CoordinateLookup = Callable[[Any], CellCoordinates | None]
TrackedResult = CellCoordinates | Sequence[CellCoordinates | None] | None
CoordinateRule = Callable[[CoordinateLookup, Any, tuple[Any, ...], dict[str, Any], Any], TrackedResult]

_NEAR = 0.1  # share of the image; what is mixed from farther around comes from no place
_NEVER_WIDER = 0.2  # the same, where cells are large
_OUTWEIGHS = 0.9  # share of all weights
_NOTHING = 1e-3  # of the largest weight
_SAMPLE = 16  # columns of a large matrix that are looked at first
_LARGE = 2**20  # elements of a matrix


def weighted_coordinates(places: CellCoordinates, mixed: Callable[[Tensor], Tensor]) -> Coordinates:
    """The middle of what each element of a mixture is made of; none at all if some are made of what lies far apart.

    mixed: the function that mixes, linear, with weights that are not negative. A single weight, as in a permutation,
    moves a place; weights of neighbours, as in a filter, give their middle.
    """
    rows = without_expanded_axes(places.rows)
    there = ~rows[0].isnan()
    whole, share = mixed(torch.ones_like(rows[0])), mixed(there.to(rows[0]))
    near = torch.ones((), dtype=torch.bool, device=whole.device)
    followed = share > 0.5 * whole
    limits = [1e-3, *(min(_NEVER_WIDER, max(_NEAR, each.pitch)) for each in places.sampling)]
    found = []
    for each, limit in zip(rows, limits, strict=True):
        values = each.where(there, 0)
        mean = mixed(values) / share
        variance = mixed(values * values) / share - mean * mean
        near = near & (~followed | (variance <= limit * limit))
        found.append(mean)
    return tuple(mean.where(followed & near.all(), math.nan) for mean in found)


def linear_coordinates(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """A mixture of the last axis."""
    places, weight = tracked(args[0] if args else kwargs["input"]), args[1] if len(args) > 1 else kwargs["weight"]
    if places is None:
        given = _is_given(tracked, args[0])
        return _times(tracked(weight), args[0], output, weight_first=True, transposed=True) if given else None
    if is_constant_along(places.rows, -1) or not _is_given(tracked, weight):
        columns = places.columns and midpoint(places.columns, (-1,), True)
        mixed = join_cells(places, (-1,), True)
        return mixed.put(mixed.rows, columns).moved(lambda each: each.expand(output.shape))
    multiplied = _times(places, weight.mT, output, weight_first=False)
    return multiplied or places.put(no_coordinates(output, len(places.sampling)))


def product_coordinates(
    tracked: CoordinateLookup, function: Any, args: Any, _kwargs: Any, output: Any
) -> TrackedResult:
    """Rows of the first factor by columns of the second, each where it has one place."""
    name = getattr(function, "__name__", "")
    left, right = args[1:3] if name in ("addmm", "baddbmm") else args[:2][::-1] if name == "__rmatmul__" else args[:2]
    first, second = tracked(left), tracked(right)
    if left.ndim > 1 and right.ndim > 1:
        rows = constant(first.rows, -1, output) if first else None
        columns = constant(second.rows, -2, output) if second else None
        if rows or columns:
            return _between(first, second, rows, columns)
    if first and _is_given(tracked, right):
        return _times(first, right, output, weight_first=False)
    if second and _is_given(tracked, left):
        return _times(second, left, output, weight_first=True)
    return None


def _times(
    places: CellCoordinates | None, matrix: Tensor, output: Tensor, *, weight_first: bool, transposed: bool = False
) -> CellCoordinates | None:
    """Places mixed along an axis by a matrix of numbers."""
    if places is None:
        return None
    along = (-1,) if transposed or not weight_first else (-2,)
    if not _is_choice(matrix, weight_first) and (near := _near(places, along)):
        return near.moved(lambda each: (each.mT if transposed else each).expand(output.shape))

    def mixed_by(weights: Tensor) -> Coordinates:
        weights = _used(weights, (-1,) if weight_first else (-2,) if weights.ndim > 1 else (-1,))
        if weight_first:
            return weighted_coordinates(places, lambda each: weights @ (each.mT if transposed else each))
        return weighted_coordinates(places, lambda each: each @ weights)

    if matrix.numel() > _LARGE and not weight_first:
        every = max(1, matrix.shape[-1] // _SAMPLE)
        if bool(mixed_by(matrix[..., ::every])[0].isnan().all()):
            return None
    rows = tuple(each.expand(output.shape) for each in mixed_by(matrix))
    return None if bool(rows[0].isnan().all()) else places.put(rows)


def _is_choice(matrix: Tensor, weight_first: bool) -> bool:
    """Whether one weight of each row or column of a matrix outweighs all others, as in a permutation."""
    axis = -1 if weight_first or matrix.ndim < 2 else -2
    few = matrix.narrow(-1, 0, min(_SAMPLE, matrix.shape[-1])) if axis == -2 else matrix.narrow(0, 0, 1)
    weights = few.detach().abs()
    return bool((weights.amax(axis) >= _OUTWEIGHS * weights.sum(axis)).all())


def _near(places: CellCoordinates, axes: tuple[int, ...]) -> CellCoordinates | None:
    """The middle along axes, where all that has a place there lies near each other."""
    found = join_cells(places, axes, True)
    followed = (~without_expanded_axes(places.rows)[0].isnan()).any(axes[0], keepdim=True)
    return found if bool(followed.any()) and bool((~found.rows[0].isnan() == followed).all()) else None


def tensordot_coordinates(
    tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any
) -> TrackedResult:
    """A product over several axes."""
    first, second, axes = args[0], args[1], args[2] if len(args) > 2 else kwargs.get("dims", 2)
    if isinstance(axes, int):
        axes = (list(range(first.ndim - axes, first.ndim)), list(range(axes)))
    left = list(ascii_letters[: first.ndim])
    right = list(ascii_letters[first.ndim : first.ndim + second.ndim])
    pairs = [(i % first.ndim, j % second.ndim) for i, j in zip(*map(_listed, axes), strict=True)]
    for i, j in pairs:
        right[j] = left[i]
    kept = [label for label in left + right if (label in left) != (label in right)]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    return einsum_coordinates(tracked, torch.einsum, (equation, first, second), {}, output)


def einsum_coordinates(
    tracked: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any
) -> TrackedResult:
    """A product that is written with labels."""
    factors = args[1] if isinstance(args[1], list | tuple) else args[1:]
    labels, result = _labels(args[0], [each.ndim for each in factors])
    known = [tracked(each) for each in factors]
    if len(factors) == 2:
        rows, columns = (
            _spread(places.rows, own, result, output) if places else None
            for places, own in zip(known, labels, strict=True)
        )
        if rows or columns:
            return _between(known[0], known[1], rows, columns)
    return _mixed_by_labels(tracked, factors, ",".join(labels) + "->" + result, output)


def _mixed_by_labels(
    tracked: CoordinateLookup, factors: Sequence[Tensor], equation: str, output: Tensor
) -> TrackedResult:
    """One followed factor, mixed by others that the images do not decide."""
    (number, places), *more = [(i, found) for i, each in enumerate(factors) if (found := tracked(each))]
    others = [each for i, each in enumerate(factors) if i != number]
    if more or not all(_is_given(tracked, each) for each in others):
        return None
    own = equation.partition("->")[0].split(",")
    result = equation.partition("->")[2]
    del own[number]
    gone = [tuple(i for i, label in enumerate(labels) if label not in result) for labels in own]
    weights = [_used(each, axes) for each, axes in zip(others, gone, strict=True)]
    shape = factors[number].shape

    def mixed(each: Tensor) -> Tensor:
        return torch.einsum(equation, *weights[:number], each.expand(shape), *weights[number:])

    rows = tuple(each.expand(output.shape) for each in weighted_coordinates(places, mixed))
    return None if bool(rows[0].isnan().all()) else places.put(rows)


def _labels(equation: str, axes: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each factor's axes and of the result's, an ellipsis and a result that is left out written in."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    free = [letter for letter in ascii_letters if letter not in equation]
    labels = []
    for own, count in zip(inputs.split(","), axes, strict=True):
        wide = count - len(own.replace("...", ""))
        labels.append(own.replace("...", "".join(free[:wide][::-1])))
    if not arrow:
        all_labels = "".join(labels)
        once = sorted(label for label in set(all_labels) if all_labels.count(label) == 1 and label not in free)
        result = "..." * ("..." in inputs) + "".join(once)
    widest = max((n - len(own.replace("...", "")) for own, n in zip(inputs.split(","), axes, strict=True)), default=0)
    return labels, result.replace("...", "".join(free[:widest][::-1]))


def _spread(coordinates: Coordinates, labels: str, result: str, output: Tensor) -> Coordinates | None:
    """Coordinates of a factor with these axes over the axes of the result; None if they change along one that goes."""
    for axis, label in reversed(list(enumerate(labels))):
        if label not in result:
            if not is_constant_along(coordinates, axis):
                return None
            coordinates = tuple(each.select(axis, 0) for each in coordinates)
    kept = [label for label in labels if label in result]
    if len(set(kept)) < len(kept) or all(each.isnan().all() for each in coordinates):
        return None
    order = [kept.index(label) for label in result if label in kept]
    gaps = tuple(slice(None) if label in kept else None for label in result)
    return tuple(each.permute(order)[gaps].expand(output.shape) for each in coordinates)


def _between(
    first: CellCoordinates | None, second: CellCoordinates | None, rows: Coordinates | None, columns: Coordinates | None
) -> CellCoordinates | None:
    """Of a product; where the first factor is followed but comes from no one place, its row goes by the second's.

    Columns that are several and all at one place are no keys. What a product of queries and keys is multiplied by is
    gathered.
    """
    several = columns is not None and columns[0].shape[-1] > 1
    keys = None if several and columns and constant(columns, -1, columns[0]) else columns
    weights, rows, keys = (second, columns, keys if first else None) if rows is None else (first, rows, keys)
    if weights is None or rows is None:
        return None
    return replace(weights, rows=rows, columns=keys, gathered=weights.gathered or weights.columns is not None)


def warped_coordinates(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """An image sampled at the places of a grid: so are its places."""
    places = tracked(args[0] if args else kwargs["input"])
    if places is None:
        return None
    grid = (args[1] if len(args) > 1 else kwargs["grid"]).detach().float()
    corners = args[4] if len(args) > 4 else kwargs.get("align_corners", False)

    def mixed(each: Tensor) -> Tensor:
        each = each.expand(len(grid), *each.shape[1:])
        return F.grid_sample(each, grid, "bilinear", "zeros", align_corners=bool(corners))

    rows = weighted_coordinates(places, mixed)  # of bilinear sampling, for any other way comes within a cell of it
    return places.put(tuple(each.expand(output.shape) for each in rows))


def attention_coordinates(
    tracked: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any
) -> TrackedResult:
    """What attention gathers belongs to the query."""
    queries = tracked(args[0])
    rows = constant(queries.rows, -1, output) if queries else None
    return replace(queries, rows=rows, columns=None, gathered=True) if queries and rows else None


def multi_head_coordinates(
    tracked: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any
) -> TrackedResult:
    """The same, of a function that gives the weights as well."""
    return [attention_coordinates(tracked, None, args, {}, output[0]), None]  # type: ignore[list-item]


def _used(weights: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Which weights a mixture along some axes uses: the one that outweighs all others, or those that are not zero."""
    weights = weights.detach().abs().float()
    if not axes:
        return (weights > 0).float()
    largest, total = weights.amax(axes, keepdim=True), weights.sum(axes, keepdim=True)
    least = torch.where(largest >= _OUTWEIGHS * total, 0.99, _NOTHING) * largest
    return ((weights >= least) & (weights > 0)).float()


def _is_given(tracked: CoordinateLookup, tensor: Any) -> bool:
    """Whether a factor is one of numbers that no image decides; of a frozen model, those have no gradient."""
    return tracked(tensor) is None and isinstance(tensor, Tensor) and not tensor.requires_grad


def _listed(axes: Any) -> list[int]:
    return [axes] if isinstance(axes, int) else list(axes)
