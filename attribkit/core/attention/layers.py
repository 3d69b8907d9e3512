"""Layers of attention: the weights of each, and where on the image its queries and keys are."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attribkit.core.attention.arrangement import Arrangement, Tokens, Windows, arrangement_of
from attribkit.core.attention.seen import Weights, attention_seen, gathering_watched
from attribkit.core.errors import InvalidInput, UnsupportedModel, listed
from attribkit.core.hooks import running
from attribkit.core.places.followed import places_followed

_BATCHED = 3  # axes of a softmax over rows that may be attention or not; with heads there are more
_WORDS = re.compile(r"(^|[._])(attn|attention)$")  # that end the name of a module that attends


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """The weights of one attention, and where on the image its queries and keys are.

    Attention between all tokens has one window. Shifts are undone: the cells of queries and keys are those of the
    image, wherever the model had moved them.
    """

    name: str  # dotted, of the innermost module with parameters that was running
    windows: Windows  # as the model has them; each row sums to one
    queries: Tokens
    keys: Tokens

    @property
    def weights(self) -> Float[Tensor, "b heads queries keys"]:
        """The weights of all queries for all keys; windows are stitched together, anew at each access.

        Tokens are numbered as on the image: prefix tokens first, then the cells in reading order. Of windows, a weight
        is zero where none reaches, and what falls on padding is left out.
        """
        rows, columns = self.queries.numbers, self.keys.numbers
        if self.windows.shape[1] == 1 and _in_order(rows) and _in_order(columns):
            return self.windows[:, 0]
        if not self.queries.count:
            raise InvalidInput(f"The queries of {self.name!r} have no place to be stitched to: read .windows.")
        there = rows.ge(0)[:, :, None] & columns.ge(0)[:, None]
        pairs = (rows[:, :, None] * self.keys.count + columns[:, None])[there]
        shape = (self.queries.count, self.keys.count)
        stitched = self.windows.new_zeros(len(self.windows), self.windows.shape[2], math.prod(shape))
        return stitched.index_add(2, pairs, self.windows.movedim(2, 1)[..., there]).unflatten(2, shape)

    def received(self, asking: Bool[Tensor, "windows queries"] | None = None) -> Float[Tensor, "b heads *grid"]:
        """The attention that each cell of the keys' grid receives, the mean over queries.

        asking: the queries that count; None is all but those of padding. What prefix tokens and padding receive is left
        out, so that the sum over the grid is at most one.
        """
        asking = self.queries.real if asking is None else asking
        share = asking / asking.sum().clamp(min=1)
        given = torch.einsum("bwhqk,wq->bhwk", self.windows, share.to(self.windows))
        placed = self.keys.cells.ge(0)
        received = self.windows.new_zeros(*given.shape[:2], math.prod(self.keys.grid))
        return received.index_add(2, self.keys.cells[placed], given[..., placed]).unflatten(2, self.keys.grid)

    def of(self, query: int | tuple[int, ...]) -> Float[Tensor, "b heads *grid"]:
        """Where one query looks, on the keys' grid.

        query: a cell of the queries' grid, such as (row, column); or the number of a prefix token, 0 for a class token.
        """
        return self.received(self.queries.numbers == self.queries.number(query))

    def __repr__(self) -> str:
        _, windows, heads, queries, keys = self.windows.shape
        inside = f" in {windows} windows of {queries} by {keys}" if windows > 1 else ""
        return f"AttentionLayer({self.name!r}, {heads} heads, {self.queries} queries by {self.keys} keys{inside})"


@dataclass(frozen=True, eq=False)
class AttentionLayers(Sequence[AttentionLayer]):
    """The layers of attention of a forward, in execution order."""

    layers: tuple[AttentionLayer, ...]
    left_out: tuple[str, ...] = ()  # modules that attend otherwise than from token to token, as far as can be told
    changed: tuple[str, ...] = ()  # of the layers, those whose weights the model changes before they gather values

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful reader should know."""
        missing = (
            f"no weights are shown of {listed(self.left_out)}: they are not between tokens with a place on the image, "
            "as those of channels, of learned queries and linear attention are not, or the place was lost on the way"
        )
        changing = (
            f"the weights of {listed(self.changed)} are shown as the softmax makes them; the model changes them "
            "further before it gathers values with them, as talking heads do"
        )
        return (missing,) * bool(self.left_out) + (changing,) * bool(self.changed)

    @overload
    def __getitem__(self, index: int) -> AttentionLayer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AttentionLayer]: ...
    def __getitem__(self, index: int | slice) -> AttentionLayer | Sequence[AttentionLayer]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return "\n".join(["AttentionLayers:", *(f"  {each}" for each in (*self.layers, *self.notes))])


def _projects(module: nn.Module) -> bool:
    """Whether a module has parts and a matrix, as attention does and a normalisation behind it does not."""
    return any(True for _ in module.children()) and any(each.ndim > 1 for each in module.parameters())


def _in_order(numbers: Tensor) -> bool:
    return bool((numbers[0] == torch.arange(numbers.shape[1], device=numbers.device)).all())


class Found(NamedTuple):
    """A layer of attention, found while the model runs."""

    name: str
    arrangement: Arrangement


class AttentionFollowed:
    """What is found of attention in a forward that is followed.

    keep: called with the weights as they are and with their arrangement; gives those that the model goes on with, and
    what is kept of them.
    """

    def __init__(self, keep: Callable[[Weights, Arrangement], tuple[Weights, Tensor]]) -> None:
        self.found: list[Found] = []
        self._keep = keep
        self._kept: list[Tensor] = []
        self._left_out: list[str] = []
        self._gathering = gathering_watched()
        self._modules: list[str] = []

    @contextmanager
    def following(self, module: nn.Module, x: Tensor) -> Iterator[None]:
        """Follow the attention of a forward of these images."""
        modules = dict(module.named_modules())
        weighted = {name for name, each in modules.items() if any(True for _ in each.parameters())}
        self._modules = [name for name, each in modules.items() if _WORDS.search(name) and _projects(each)]
        with running(module) as names, places_followed(x) as places, self._gathering:

            def see(weights: Tensor, certain: bool) -> Tensor:
                name = next((each for each in reversed(names) if each in weighted), "")
                arrangement = arrangement_of(places.of(weights), certain=certain)
                if arrangement is None or arrangement.lead[0] != len(x):
                    self._left_out.extend([name] * (certain or weights.ndim > _BATCHED))
                    return weights
                weights, kept = self._keep(weights, arrangement)
                self._gathering.watch(weights, len(self.found))
                self.found.append(Found(name, arrangement))
                self._kept.append(kept)
                return weights

            with attention_seen(see):
                yield

    def taken(self) -> list[Tensor]:
        """What was kept of each layer's weights; held here no longer."""
        kept, self._kept = self._kept, []
        return kept

    @property
    def changed(self) -> tuple[str, ...]:
        """The layers whose weights the model changed before it gathered values with them."""
        direct = self._gathering.gathering
        return tuple(dict.fromkeys(each.name for i, each in enumerate(self.found) if i not in direct))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The modules whose weights are not shown: closed to us, or not between tokens."""
        seen = [each.name for each in self.found]
        blind = [
            name
            for name in self._modules
            if not any(other == name or other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in seen)
        ]
        return tuple(dict.fromkeys(self._left_out + blind))


def joined_layers(parts: Sequence[AttentionFollowed], windows: Sequence[Tensor]) -> AttentionLayers:
    """The layers that were found in each part of a batch, with these (b, windows, heads, queries, keys) of all of it.

    Raises UnsupportedModel where there is none, and where the parts differ.
    """
    first = parts[0]
    if not windows:
        kind = "is of another kind, or its tokens' place on the image was lost"
        other = f" (that of {listed(first.left_out)} {kind})" if first.left_out else ""
        raise UnsupportedModel(
            f"No attention between tokens was seen in this model{other}: use gradcam, or attention_gates for the gates "
            "of attention modules inside a CNN."
        )
    if not all(_alike(one, other) for part in parts[1:] for one, other in zip(first.found, part.found, strict=True)):
        raise UnsupportedModel(
            "The tokens of this model's attention are others for other images, so that their weights make no batch: "
            "give one image at a time."
        )
    layers = (
        AttentionLayer(found.name, each, found.arrangement.queries, found.arrangement.keys)
        for found, each in zip(first.found, windows, strict=True)
    )
    return AttentionLayers(tuple(layers), first.left_out, first.changed)


def _alike(one: Found, other: Found) -> bool:
    """Whether a layer's tokens are the same cells in two forwards."""
    pairs = ((each.arrangement.queries, each.arrangement.keys) for each in (one, other))
    return all(
        some.grid == others.grid and torch.equal(some.cells, others.cells) for some, others in zip(*pairs, strict=True)
    )
