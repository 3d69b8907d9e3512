"""Arrange attention weights as images, windows and heads, and find the grid cells of their tokens."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribkit._coordinates.coordinates import CellCoordinates, Positions, is_constant_along
from attribkit._coordinates.grids import on_grid
from attribkit._core.errors import InvalidInput
from attribkit._tracing.attention_recorder import AttentionWeights

Windows = Float[Tensor, "b windows heads queries keys"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The queries or the keys of an attention, and their cells on the image.

    Args:
        grid: Number of cells along each axis of the image; empty if no token has a position.
        cells: Cell of each token, counted in reading order; -1 if it does not have a position.
        centres: Centres of the cells along each axis, as fractions of the image.
        padded: Whether tokens without a position between or after the others may be padding.
    """

    grid: tuple[int, ...]
    cells: Int[Tensor, "windows tokens"]
    centres: tuple[Tensor, ...]
    padded: bool = False

    @property
    def prefix(self) -> int:
        """The number of tokens without a position, such as class tokens, before all others; 0 with several windows."""
        leading, others = self._without_position()
        return leading if not others or not self.padded else 0

    @property
    def suffix(self) -> int:
        """The number of tokens without a position, such as detection tokens, between or after the others.

        0 with several windows, and if the model pads its tokens, since those are padding.
        """
        return 0 if self.padded else self._without_position()[1]

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
        """The number of tokens on the whole image, without padding."""
        return self.prefix + (math.prod(self.grid) if self.grid else 0) + self.suffix

    @property
    def real(self) -> Bool[Tensor, "windows tokens"]:
        """Whether each token is not padding."""
        return self.numbers.ge(0) if self.grid else torch.ones_like(self.cells, dtype=torch.bool)

    @property
    def positions(self) -> Float[Tensor, "windows tokens axes"]:
        """The position of each token along each axis, as a fraction of the image; NaN without one."""
        positions = [torch.full_like(self.cells, math.nan, dtype=torch.float32) for _ in self.centres]
        if positions:
            indices = torch.unravel_index(self.cells.clamp(min=0), self.grid)
            positions = [centre[i] for centre, i in zip(self.centres, indices, strict=True)]
        stacked = torch.stack(positions, -1) if positions else self.cells.new_empty(*self.cells.shape, 0).float()
        return stacked.masked_fill(self.cells.lt(0).unsqueeze(-1), math.nan)

    def number(self, token: int | tuple[int, ...]) -> int:
        """Return the number of a token.

        Args:
            token: Cell of the grid, such as (row, column), or the number of a token without a position.

        Raises:
            InvalidInput: If the token does not exist.
        """
        if isinstance(token, int):
            if 0 <= token < self.prefix or self.count - self.suffix <= token < self.count:
                return token
        elif len(token) == len(self.grid) and all(0 <= at < n for at, n in zip(token, self.grid, strict=True)):
            cells = torch.arange(math.prod(self.grid), device="cpu").view(self.grid)
            return self.prefix + int(cells[token])
        raise InvalidInput(f"Token {token} does not exist. The tokens are {self}.")

    def __str__(self) -> str:
        grid = "x".join(map(str, self.grid))
        prefix, suffix = [f"{self.prefix} prefix"] * bool(self.prefix), [f"{self.suffix} suffix"] * bool(self.suffix)
        return " + ".join(prefix + [grid] * bool(grid) + suffix)

    def _without_position(self) -> tuple[int, int]:
        """Count the tokens without a position: before all others, and after that; (0, 0) with several windows."""
        if len(self.cells) > 1:
            return 0, 0
        leading = int(self.cells[0].ge(0).cumsum(0).eq(0).sum())
        return leading, int(self.cells.lt(0).sum()) - leading


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The meaning of the leading axes of attention weights.

    Args:
        lead: Number of images, windows and heads.
        order: Order of the flattened leading axes; None keeps it.
        queries: Tokens of the queries.
        keys: Tokens of the keys.
    """

    lead: tuple[int, int, int]
    order: Int[Tensor, " lead"] | None
    queries: Tokens
    keys: Tokens

    def __call__(self, weights: AttentionWeights) -> Windows:
        """Return the weights, or a tensor of their shape, as (b, windows, heads, queries, keys)."""
        flat = weights.reshape(-1, *weights.shape[-2:])
        return (flat if self.order is None else flat[self.order]).unflatten(0, self.lead)


def arrangement_of(coordinates: CellCoordinates | None, *, certain: bool, padded: bool = False) -> Arrangement | None:
    """Find the arrangement of weights with these coordinates; None if they are not between tokens of the images.

    Args:
        coordinates: Coordinates of the weights.
        certain: Whether the weights certainly belong to an attention; otherwise they must be a softmax over products.
        padded: Whether the tokens were padded on the way from the images.
    """
    sides = coordinates and _query_and_key_positions(coordinates, certain=certain)
    if not sides:
        return None
    query_positions, key_positions = sides
    keys = torch.stack([each.select(-2, 0) for each in key_positions], -1).flatten(0, -3)
    if query_positions is None:
        queries = keys.new_full((len(keys), key_positions[0].shape[-2], keys.shape[-1]), math.nan)
    else:
        queries = torch.stack([each.select(-1, 0) for each in query_positions], -1).flatten(0, -3)
    return _arrange(queries, keys, padded)


def _arrange(queries: Tensor, keys: Tensor, padded: bool) -> Arrangement | None:
    """Find the arrangement from positions (lead, tokens, 1 + axes): the image and the position on it, or NaN."""
    images = torch.cat([queries[..., 0], keys[..., 0]], 1)
    image = images.nan_to_num(-1).amax(1)
    is_mixed = ~((images == image[:, None]) | images.isnan())
    query_tokens, key_tokens = _on_grid(queries[..., 1:]), _on_grid(keys[..., 1:])
    if not query_tokens or not key_tokens or not key_tokens.grid or bool(is_mixed.any()) or bool(image.lt(0).any()):
        return None
    signature = torch.cat([image[:, None].long(), query_tokens.cells, key_tokens.cells], 1)
    groups, group, heads = signature.unique(dim=0, return_inverse=True, return_counts=True)  # sorted by image
    count = int(groups[-1, 0]) + 1
    if len(groups) % count or bool((heads != heads[0]).any()):
        return None
    each = groups.unflatten(0, (count, -1))
    numbers = torch.arange(count, device=groups.device)[:, None]
    if bool((each[..., 0] != numbers).any()) or bool((each[..., 1:] != each[:1, :, 1:]).any()):
        return None
    q, k = each[0, :, 1:].split([queries.shape[1], keys.shape[1]], 1)
    if query_tokens.grid and int(q.ge(0).sum()) != math.prod(query_tokens.grid):
        return None  # a query is in several windows
    order = group.argsort(stable=True)
    is_sequential = bool((order == torch.arange(len(order), device=order.device)).all())
    return Arrangement(
        (count, each.shape[1], int(heads[0])),
        None if is_sequential else order,
        Tokens(query_tokens.grid, q, query_tokens.centres, padded),
        Tokens(key_tokens.grid, k, key_tokens.centres, padded),
    )


def _query_and_key_positions(
    coordinates: CellCoordinates, *, certain: bool
) -> tuple[Positions | None, Positions] | None:
    """Return the positions of the queries (None if they have none) and of the keys."""
    first, second = coordinates.positions, coordinates.key_positions
    if second is None:
        return (None, first) if certain and is_constant_along(first, -2) and not is_constant_along(first, -1) else None
    if is_constant_along(first, -1) and is_constant_along(second, -2):
        return first, second
    if is_constant_along(second, -1) and is_constant_along(first, -2):
        return second, first
    return (None, second) if is_constant_along(first, -2) and is_constant_along(second, -2) else None


def _on_grid(positions: Tensor) -> Tokens | None:
    """Find the cells of tokens at positions (lead, tokens, axes); None if they do not fill a grid once per row."""
    found = on_grid(positions.unbind(-1))
    return found and Tokens(tuple(map(len, found[0])), found[1], found[0])
