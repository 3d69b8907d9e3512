"""How the weights of an attention are images, windows and heads, and which cells of the image its tokens are."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit.coordinates.coordinates import CellCoordinates, Coordinates, is_constant_along
from attribkit.coordinates.grids import on_grid
from attribkit.core.errors import InvalidInput
from attribkit.tracing.attention_recorder import AttentionWeights

Windows = Float[Tensor, "b windows heads queries keys"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The queries or the keys of an attention, and the cells of the image that they are."""

    grid: tuple[int, ...]  # cells along each axis of the image; empty where no token has a place
    cells: Int[Tensor, "windows tokens"]  # the cell of each token, counted in reading order; -1 is no place
    centres: tuple[Tensor, ...]  # of the cells along each axis, as shares of the image
    padded: bool = False  # whether tokens without a place that stand among or behind the others may be padding

    @property
    def prefix(self) -> int:
        """How many tokens without a place, such as class tokens, stand before all others; of several windows, none."""
        leading, others = self._placeless()
        return leading if not others or not self.padded else 0

    @property
    def suffix(self) -> int:
        """How many tokens without a place, such as detection tokens, stand among or behind the others.

        None of several windows, nor where the model pads its tokens: those are padding.
        """
        return 0 if self.padded else self._placeless()[1]

    @property
    def numbers(self) -> Int[Tensor, "windows tokens"]:
        """Each token's number: prefix tokens first, then the cells in reading order, then the suffix; -1 is padding."""
        numbers = torch.where(self.cells.ge(0), self.cells + self.prefix, -1)
        numbers[:, : self.prefix] = torch.arange(self.prefix, device=numbers.device)
        if self.suffix:
            numbers[numbers.lt(0)] = torch.arange(self.count - self.suffix, self.count, device=numbers.device)
        return numbers

    @property
    def count(self) -> int:
        """How many tokens there are on the whole image, without padding."""
        return self.prefix + (math.prod(self.grid) if self.grid else 0) + self.suffix

    @property
    def real(self) -> Bool[Tensor, "windows tokens"]:
        """Whether each token is one of the model's, not padding."""
        return self.numbers.ge(0) if self.grid else torch.ones_like(self.cells, dtype=torch.bool)

    @property
    def places(self) -> Float[Tensor, "windows tokens axes"]:
        """The centre of each token along each axis, as a share of the image; NaN where it has no place."""
        found = [torch.full_like(self.cells, math.nan, dtype=torch.float32) for _ in self.centres]
        if found:
            indices = torch.unravel_index(self.cells.clamp(min=0), self.grid)
            found = [centre[i] for centre, i in zip(self.centres, indices, strict=True)]
        stacked = torch.stack(found, -1) if found else self.cells.new_empty(*self.cells.shape, 0).float()
        return stacked.masked_fill(self.cells.lt(0).unsqueeze(-1), math.nan)

    def number(self, token: int | tuple[int, ...]) -> int:
        """The number of a token without a place, checked, or that of a cell of the grid such as (row, column)."""
        if isinstance(token, int):
            if 0 <= token < self.prefix or self.count - self.suffix <= token < self.count:
                return token
        elif len(token) == len(self.grid) and all(0 <= at < n for at, n in zip(token, self.grid, strict=True)):
            cells = torch.arange(math.prod(self.grid), device="cpu").view(self.grid)
            return self.prefix + int(cells[token])
        raise InvalidInput(f"There is no token {token}; there are {self}.")

    def __str__(self) -> str:
        grid = "x".join(map(str, self.grid))
        before, behind = [f"{self.prefix} prefix"] * bool(self.prefix), [f"{self.suffix} suffix"] * bool(self.suffix)
        return " + ".join(before + [grid] * bool(grid) + behind)

    def _placeless(self) -> tuple[int, int]:
        """How many tokens have no place: before all others, and among or behind them; none of several windows."""
        if len(self.cells) > 1:
            return 0, 0
        leading = int(self.cells[0].ge(0).cumsum(0).eq(0).sum())
        return leading, int(self.cells.lt(0).sum()) - leading


@dataclass(frozen=True, eq=False)
class Arrangement:
    """What each of the leading axes of an attention's weights is."""

    lead: tuple[int, int, int]  # images, windows, heads
    order: Int[Tensor, " lead"] | None  # of the leading axes in a row; None is as they are
    queries: Tokens
    keys: Tokens

    def __call__(self, weights: AttentionWeights) -> Windows:
        """The weights, or anything of their shape, as (b, windows, heads, queries, keys)."""
        flat = weights.reshape(-1, *weights.shape[-2:])
        return (flat if self.order is None else flat[self.order]).unflatten(0, self.lead)


def arrangement_of(places: CellCoordinates | None, *, certain: bool, padded: bool = False) -> Arrangement | None:
    """How weights with these places are arranged; None where they are not weights between tokens of the images.

    certain: whether these are the weights of an attention; any other softmax must be one of products. padded: whether
    the tokens were padded on the way from the images.
    """
    sides = places and _sides(places, certain=certain)
    if not sides:
        return None
    asking, asked = sides
    keys = torch.stack([each.select(-2, 0) for each in asked], -1).flatten(0, -3)
    if asking is None:
        queries = keys.new_full((len(keys), asked[0].shape[-2], keys.shape[-1]), math.nan)
    else:
        queries = torch.stack([each.select(-1, 0) for each in asking], -1).flatten(0, -3)
    return _arranged(queries, keys, padded)


def _arranged(queries: Tensor, keys: Tensor, padded: bool) -> Arrangement | None:
    """The same, of coordinates (lead, tokens, 1 + axes): the image and the place on it, or NaN."""
    images = torch.cat([queries[..., 0], keys[..., 0]], 1)
    image = images.nan_to_num(-1).amax(1)
    mixed = ~((images == image[:, None]) | images.isnan())
    asking, asked = _on_grid(queries[..., 1:]), _on_grid(keys[..., 1:])
    if not asking or not asked or not asked.grid or bool(mixed.any()) or bool(image.lt(0).any()):
        return None
    signature = torch.cat([image[:, None].long(), asking.cells, asked.cells], 1)
    groups, group, heads = signature.unique(dim=0, return_inverse=True, return_counts=True)  # sorted by image first
    count = int(groups[-1, 0]) + 1
    if len(groups) % count or bool((heads != heads[0]).any()):
        return None
    each = groups.unflatten(0, (count, -1))
    numbers = torch.arange(count, device=groups.device)[:, None]
    if bool((each[..., 0] != numbers).any()) or bool((each[..., 1:] != each[:1, :, 1:]).any()):
        return None
    q, k = each[0, :, 1:].split([queries.shape[1], keys.shape[1]], 1)
    if asking.grid and int(q.ge(0).sum()) != math.prod(asking.grid):
        return None  # a query stands in several windows
    order = group.argsort(stable=True)
    straight = bool((order == torch.arange(len(order), device=order.device)).all())
    return Arrangement(
        (count, each.shape[1], int(heads[0])),
        None if straight else order,
        Tokens(asking.grid, q, asking.centres, padded),
        Tokens(asked.grid, k, asked.centres, padded),
    )


def _sides(places: CellCoordinates, *, certain: bool) -> tuple[Coordinates | None, Coordinates] | None:
    """The places of the queries (None where they have none) and of the keys."""
    rows, columns = places.rows, places.columns
    if columns is None:
        return (None, rows) if certain and is_constant_along(rows, -2) and not is_constant_along(rows, -1) else None
    if is_constant_along(rows, -1) and is_constant_along(columns, -2):
        return rows, columns
    if is_constant_along(columns, -1) and is_constant_along(rows, -2):
        return columns, rows
    return (None, columns) if is_constant_along(rows, -2) and is_constant_along(columns, -2) else None


def _on_grid(coordinates: Tensor) -> Tokens | None:
    """The cells of tokens at these places (lead, tokens, axes), if together they fill a grid, none twice in a row."""
    found = on_grid(coordinates.unbind(-1))
    return found and Tokens(tuple(map(len, found[0])), found[1], found[0])
