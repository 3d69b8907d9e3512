"""Coordinates of products: of queries and keys, and of images with matrices that do not depend on the images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_letters
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit._coordinates.coordinates import (
    CellCoordinates,
    Positions,
    is_constant_along,
    join_cells,
    midpoint,
    positions_without_axis,
    unknown_positions,
    without_expanded_axes,
)

CoordinateLookup = Callable[[Any], CellCoordinates | None]
TrackedResult = CellCoordinates | Sequence[CellCoordinates | None] | None
CoordinateRule = Callable[[CoordinateLookup, Any, tuple[Any, ...], dict[str, Any], Any], TrackedResult]

_MAX_SPREAD = 0.1  # standard deviation, as a fraction of the image; the mean of wider mixtures is unknown
_LARGEST_SPREAD = 0.2  # the same limit for large cells
_DOMINANT = 0.9  # fraction of the sum of the weights
_NEGLIGIBLE = 1e-3  # fraction of the largest weight
_SAMPLE = 16  # columns of a large matrix to try first
_LARGE = 2**20  # elements of a matrix


def weighted_positions(coordinates: CellCoordinates, mix: Callable[[Tensor], Tensor]) -> Positions:
    """Compute the mean position of the inputs that are mixed in each element.

    `mix` is the linear function that mixes, with non-negative weights. A single weight, as in a permutation, moves a
    position; weights of neighbours, as in a filter, average theirs. If some elements mix distant positions, all are
    NaN.
    """
    positions = without_expanded_axes(coordinates.positions)
    defined = ~positions[0].isnan()
    total, located = mix(torch.ones_like(positions[0])), mix(defined.to(positions[0]))
    is_near = torch.ones((), dtype=torch.bool, device=total.device)
    has_position = located > 0.5 * total
    limits = [1e-3, *(min(_LARGEST_SPREAD, max(_MAX_SPREAD, each.pitch)) for each in coordinates.sampling)]
    found = []
    for each, limit in zip(positions, limits, strict=True):
        values = each.where(defined, 0)
        mean = mix(values) / located
        variance = mix(values * values) / located - mean * mean
        is_near = is_near & (~has_position | (variance <= limit * limit))
        found.append(mean)
    return tuple(mean.where(has_position & is_near.all(), math.nan) for mean in found)


def linear_coordinates(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Mix the last axis by the weights of a linear layer."""
    coordinates, weight = lookup(args[0] if args else kwargs["input"]), args[1] if len(args) > 1 else kwargs["weight"]
    if coordinates is None:
        is_fixed = _is_fixed(lookup, args[0])
        return _multiply(lookup(weight), args[0], output, weight_first=True, transposed=True) if is_fixed else None
    if is_constant_along(coordinates.positions, -1) or not _is_fixed(lookup, weight):
        key_positions = coordinates.key_positions and midpoint(coordinates.key_positions, (-1,), True)
        joined = join_cells(coordinates, (-1,), True)
        return joined.with_positions(joined.positions, key_positions).rearrange(lambda each: each.expand(output.shape))
    product = _multiply(coordinates, weight.mT, output, weight_first=False)
    return product or coordinates.with_positions(unknown_positions(output, len(coordinates.sampling)))


def product_coordinates(lookup: CoordinateLookup, function: Any, args: Any, _kwargs: Any, output: Any) -> TrackedResult:
    """Pair the row positions of the first factor with the column positions of the second, or mix by a fixed matrix."""
    name = getattr(function, "__name__", "")
    left, right = args[1:3] if name in ("addmm", "baddbmm") else args[:2][::-1] if name == "__rmatmul__" else args[:2]
    first, second = lookup(left), lookup(right)
    if left.ndim > 1 and right.ndim > 1:
        positions = positions_without_axis(first.positions, -1, output) if first else None
        key_positions = positions_without_axis(second.positions, -2, output) if second else None
        if positions or key_positions:
            return _pair(first, second, positions, key_positions)
    if first and _is_fixed(lookup, right):
        return _multiply(first, right, output, weight_first=False)
    if second and _is_fixed(lookup, left):
        return _multiply(second, left, output, weight_first=True)
    return None


def _multiply(
    coordinates: CellCoordinates | None, matrix: Tensor, output: Tensor, *, weight_first: bool, transposed: bool = False
) -> CellCoordinates | None:
    """Mix positions along an axis by a matrix of numbers."""
    if coordinates is None:
        return None
    along = (-1,) if transposed or not weight_first else (-2,)
    if not _is_selection(matrix, weight_first) and (is_near := _local_midpoint(coordinates, along)):
        return is_near.rearrange(lambda each: (each.mT if transposed else each).expand(output.shape))

    def mix_by(weights: Tensor) -> Positions:
        weights = _used_weights(weights, (-1,) if weight_first else (-2,) if weights.ndim > 1 else (-1,))
        if weight_first:
            return weighted_positions(coordinates, lambda each: weights @ (each.mT if transposed else each))
        return weighted_positions(coordinates, lambda each: each @ weights)

    if matrix.numel() > _LARGE and not weight_first:
        every = max(1, matrix.shape[-1] // _SAMPLE)
        if bool(mix_by(matrix[..., ::every])[0].isnan().all()):
            return None
    positions = tuple(each.expand(output.shape) for each in mix_by(matrix))
    return None if bool(positions[0].isnan().all()) else coordinates.with_positions(positions)


def _is_selection(matrix: Tensor, weight_first: bool) -> bool:
    """Return whether one weight of each row or column of a matrix dominates the others, as in a permutation."""
    axis = -1 if weight_first or matrix.ndim < 2 else -2
    sample = matrix.narrow(-1, 0, min(_SAMPLE, matrix.shape[-1])) if axis == -2 else matrix.narrow(0, 0, 1)
    weights = sample.detach().abs()
    return bool((weights.amax(axis) >= _DOMINANT * weights.sum(axis)).all())


def _local_midpoint(coordinates: CellCoordinates, axes: tuple[int, ...]) -> CellCoordinates | None:
    """Compute the midpoint along axes; None where the known positions are far apart."""
    found = join_cells(coordinates, axes, True)
    has_position = (~without_expanded_axes(coordinates.positions)[0].isnan()).any(axes[0], keepdim=True)
    return found if bool(has_position.any()) and bool((~found.positions[0].isnan() == has_position).all()) else None


def tensordot_coordinates(
    lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any
) -> TrackedResult:
    """Mix positions by a product over several axes, like einsum."""
    first, second, axes = args[0], args[1], args[2] if len(args) > 2 else kwargs.get("dims", 2)
    if isinstance(axes, int):
        axes = (list(range(first.ndim - axes, first.ndim)), list(range(axes)))
    left = list(ascii_letters[: first.ndim])
    right = list(ascii_letters[first.ndim : first.ndim + second.ndim])
    pairs = [(i % first.ndim, j % second.ndim) for i, j in zip(*map(_as_list, axes), strict=True)]
    for i, j in pairs:
        right[j] = left[i]
    kept = [label for label in left + right if (label in left) != (label in right)]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    return einsum_coordinates(lookup, torch.einsum, (equation, first, second), {}, output)


def einsum_coordinates(lookup: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any) -> TrackedResult:
    """Pair or mix positions according to the labels of an einsum."""
    factors = args[1] if isinstance(args[1], list | tuple) else args[1:]
    labels, result = _expand_labels(args[0], [each.ndim for each in factors])
    operands = [lookup(each) for each in factors]
    if len(factors) == 2:
        positions, key_positions = (
            _spread(coordinates.positions, axes_labels, result, output) if coordinates else None
            for coordinates, axes_labels in zip(operands, labels, strict=True)
        )
        if positions or key_positions:
            return _pair(operands[0], operands[1], positions, key_positions)
    return _mix_by_labels(lookup, factors, ",".join(labels) + "->" + result, output)


def _mix_by_labels(lookup: CoordinateLookup, factors: Sequence[Tensor], equation: str, output: Tensor) -> TrackedResult:
    """Mix the one factor with known positions by factors that do not depend on the images."""
    (number, coordinates), *more = [(i, found) for i, each in enumerate(factors) if (found := lookup(each))]
    others = [each for i, each in enumerate(factors) if i != number]
    if more or not all(_is_fixed(lookup, each) for each in others):
        return None
    axes_labels = equation.partition("->")[0].split(",")
    result = equation.partition("->")[2]
    del axes_labels[number]
    gone = [tuple(i for i, label in enumerate(labels) if label not in result) for labels in axes_labels]
    weights = [_used_weights(each, axes) for each, axes in zip(others, gone, strict=True)]
    shape = factors[number].shape

    def mix(each: Tensor) -> Tensor:
        return torch.einsum(equation, *weights[:number], each.expand(shape), *weights[number:])

    positions = tuple(each.expand(output.shape) for each in weighted_positions(coordinates, mix))
    return None if bool(positions[0].isnan().all()) else coordinates.with_positions(positions)


def _expand_labels(equation: str, axes: Sequence[int]) -> tuple[list[str], str]:
    """Return the axis labels of each factor and of the result, with ellipses and an omitted result written out."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    free = [letter for letter in ascii_letters if letter not in equation]
    labels = []
    for axes_labels, count in zip(inputs.split(","), axes, strict=True):
        wide = count - len(axes_labels.replace("...", ""))
        labels.append(axes_labels.replace("...", "".join(free[:wide][::-1])))
    if not arrow:
        all_labels = "".join(labels)
        once = sorted(label for label in set(all_labels) if all_labels.count(label) == 1 and label not in free)
        result = "..." * ("..." in inputs) + "".join(once)
    widest = max(
        (n - len(axes_labels.replace("...", "")) for axes_labels, n in zip(inputs.split(","), axes, strict=True)),
        default=0,
    )
    return labels, result.replace("...", "".join(free[:widest][::-1]))


def _spread(positions: Positions, labels: str, result: str, output: Tensor) -> Positions | None:
    """Return the positions of a factor on the axes of the result; None if they vary along an axis that is summed."""
    for axis, label in reversed(list(enumerate(labels))):
        if label not in result:
            if not is_constant_along(positions, axis):
                return None
            positions = tuple(each.select(axis, 0) for each in positions)
    kept = [label for label in labels if label in result]
    if len(set(kept)) < len(kept) or all(each.isnan().all() for each in positions):
        return None
    order = [kept.index(label) for label in result if label in kept]
    gaps = tuple(slice(None) if label in kept else None for label in result)
    return tuple(each.permute(order)[gaps].expand(output.shape) for each in positions)


def _pair(
    first: CellCoordinates | None,
    second: CellCoordinates | None,
    positions: Positions | None,
    key_positions: Positions | None,
) -> CellCoordinates | None:
    """Combine the positions of two factors; use those of the second if the first has none.

    Key positions that are all equal are not treated as keys. A product with a product of queries and keys is the output
    of attention.
    """
    has_several = key_positions is not None and key_positions[0].shape[-1] > 1
    keys = (
        None
        if has_several and key_positions and positions_without_axis(key_positions, -1, key_positions[0])
        else key_positions
    )
    weights, positions, keys = (
        (second, key_positions, keys if first else None) if positions is None else (first, positions, keys)
    )
    if weights is None or positions is None:
        return None
    return replace(
        weights,
        positions=positions,
        key_positions=keys,
        is_attention_output=weights.is_attention_output or weights.key_positions is not None,
    )


def warped_coordinates(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Sample positions as grid_sample samples the image."""
    coordinates = lookup(args[0] if args else kwargs["input"])
    if coordinates is None:
        return None
    grid = (args[1] if len(args) > 1 else kwargs["grid"]).detach().float()
    corners = args[4] if len(args) > 4 else kwargs.get("align_corners", False)

    def mix(each: Tensor) -> Tensor:
        each = each.expand(len(grid), *each.shape[1:])
        return F.grid_sample(each, grid, "bilinear", "zeros", align_corners=bool(corners))

    positions = weighted_positions(coordinates, mix)  # bilinear; other modes differ by less than a cell
    return coordinates.with_positions(tuple(each.expand(output.shape) for each in positions))


def attention_coordinates(
    lookup: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any
) -> TrackedResult:
    """Return the coordinates of an attention output, which has the positions of the queries."""
    queries = lookup(args[0])
    positions = positions_without_axis(queries.positions, -1, output) if queries else None
    return (
        replace(queries, positions=positions, key_positions=None, is_attention_output=True)
        if queries and positions
        else None
    )


def multi_head_coordinates(
    lookup: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, output: Any
) -> TrackedResult:
    """Apply `attention_coordinates` to a function that returns the weights too."""
    return [attention_coordinates(lookup, None, args, {}, output[0]), None]  # type: ignore[list-item]


def _used_weights(weights: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return a mask of the weights that a mixture along axes uses: a dominant one, or all that are not negligible."""
    weights = weights.detach().abs().float()
    if not axes:
        return (weights > 0).float()
    largest, total = weights.amax(axes, keepdim=True), weights.sum(axes, keepdim=True)
    least = torch.where(largest >= _DOMINANT * total, 0.99, _NEGLIGIBLE) * largest
    return ((weights >= least) & (weights > 0)).float()


def _is_fixed(lookup: CoordinateLookup, tensor: Any) -> bool:
    """Return whether a factor does not depend on the images; in a frozen model, such a tensor requires no gradient."""
    return lookup(tensor) is None and isinstance(tensor, Tensor) and not tensor.requires_grad


def _as_list(axes: Any) -> list[int]:
    return [axes] if isinstance(axes, int) else list(axes)
