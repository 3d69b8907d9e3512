"""Layers of attention: the weights of each, and where on the image its queries and keys are."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, NamedTuple, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attribkit.coordinates.tracking import track_coordinates
from attribkit.core.errors import InvalidInput, UnsupportedModel, join_names
from attribkit.core.nested import entries
from attribkit.state.hooks import observe_modules, track_running_modules
from attribkit.tracing.attention_grid import Arrangement, Tokens, Windows, arrangement_of
from attribkit.tracing.attention_recorder import (
    IMAGES,
    PADDING,
    PRODUCT,
    UNKNOWN,
    AttentionWeights,
    record_attention,
    record_gathering,
    track_sources,
    untracked,
)

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
    heads: int  # of the model; the windows of a layer whose heads were fused have one

    @property
    def weights(self) -> Float[Tensor, "b heads queries keys"]:
        """The weights of all queries for all keys; windows are stitched together, anew at each access.

        Tokens are numbered as on the image: prefix tokens first, then the cells in reading order, then the suffix, such
        as detection tokens. Of windows, a weight is zero where none reaches, and what falls on padding is left out.
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

        asking: the queries that count; None is all but those of padding. What tokens without a place receive is left
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

        query: a cell of the queries' grid, such as (row, column); or the number of a token without a place: 0 is the
        class token of most models, and the first token behind a prefix of 1 and a grid of 4 x 6 is 25.
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
    apart: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # modules that have no part in this, by reason

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful reader should know."""
        apart = (f"left out, since {why}: {join_names(names)}" for why, names in self.apart.items())
        return (*self.gaps, *apart)

    @property
    def gaps(self) -> tuple[str, ...]:
        """What is not known of the attention to the images."""
        missing = (
            f"no weights are shown of {join_names(self.left_out)}: they are not between tokens with a place on the image, "
            "as those of channels, of learned queries and linear attention are not, or the place was lost on the way"
        )
        changing = (
            f"the weights of {join_names(self.changed)} are shown as the softmax makes them; the model changes them "
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


class AttentionRun(NamedTuple):
    """An attention that ran in a forward."""

    name: str
    sources: int  # what it depends on
    mark: int  # its own bit among the sources of what follows

    @property
    def sees_images(self) -> bool:
        """Whether it depends on the images, as far as can be told."""
        return bool(self.sources & (IMAGES | UNKNOWN))


class FoundAttention(NamedTuple):
    """A layer of attention between tokens of the images, found while the model runs."""

    ran: AttentionRun
    arrangement: Arrangement

    @property
    def name(self) -> str:
        """The dotted name of the module."""
        return self.ran.name


class AttentionTracker:
    """What is found of attention in a forward that is followed.

    keep: called with the weights as they are and with their arrangement; gives those that the model goes on with, and
    what is kept of them.
    """

    def __init__(self, keep: Callable[[AttentionWeights, Arrangement], tuple[AttentionWeights, Tensor]]) -> None:
        self.found: list[FoundAttention] = []
        self._keep = keep
        self._kept: list[Tensor] = []
        self._others: list[AttentionRun] = []  # all other attention
        self._idle: list[str] = []  # modules that are called attention and did not run
        self._unread: tuple[str, ...] = ()  # what the score does not depend on
        self._changed: list[bool] = []
        self._gathering = record_gathering()
        self._sources: track_sources | None = None

    @contextmanager
    def following(self, module: nn.Module, x: Tensor) -> Iterator[None]:
        """Follow the attention of the next forward, of these images, and what is computed from what it returns."""
        modules = dict(module.named_modules())
        weighted = {name for name, each in modules.items() if any(True for _ in each.parameters())}
        attending = {name: each for name, each in modules.items() if _WORDS.search(name) and _projects(each)}
        ran: list[AttentionRun] = []
        sources = self._sources = track_sources(module, x)

        def see(weights: Tensor, certain: bool) -> Tensor:
            if sources.is_over:  # a target may run the model once more
                return weights
            name, origin = next((each for each in reversed(names) if each in weighted), ""), sources.of(weights)
            with untracked():
                sure, padded = certain or bool(origin & PRODUCT), bool(origin & PADDING)
                arrangement = arrangement_of(places.of(weights), certain=sure, padded=padded)
            if arrangement is None or arrangement.lead[0] != len(x):
                if certain or weights.ndim > _BATCHED:
                    self._others.append(AttentionRun(name, origin, sources.marked(weights, origin)))
                return weights
            weights, kept = self._keep(weights, arrangement)
            self._gathering.watch(weights, len(self.found))
            self.found.append(FoundAttention(AttentionRun(name, origin, sources.marked(weights, origin)), arrangement))
            self._kept.append(kept)
            return weights

        def leave(name: str, _module: nn.Module, output: Any) -> None:
            tensor = next((each for _, each in entries(output)), None)
            if name in attending and tensor is not None and not sources.is_over:
                origin = sources.of(tensor)
                ran.append(AttentionRun(name, origin, sources.marked(tensor, origin)))

        with (
            track_running_modules(module) as names,
            observe_modules(module, leave),
            sources.inputs_known(),
            track_coordinates(x) as places,
            sources,
            self._gathering,
            record_attention(see),
        ):
            yield
        seen = [each.name for each in self.found] + [each.name for each in self._others]
        self._others += [each for each in ran if not _related(each.name, seen)]
        used = sources.parameters_used
        idle = [name for name, each in attending.items() if not any(id(p) in used for p in each.parameters())]
        self._idle = [name for name in idle if not _related(name, [*seen, *(each.name for each in ran)])]
        self._changed = [i not in self._gathering.gathering for i in range(len(self.found))]

    def read_by(self, scores: Sequence[Tensor]) -> None:
        """Drop the layers that none of these scores, computed while the forward was followed, depends on."""
        read = self._sources.of(scores) if self._sources else UNKNOWN
        if read & UNKNOWN or not any(read & each.ran.mark for each in self.found):
            return
        stays = [bool(read & each.ran.mark) for each in self.found]
        seen = [each for each in (*(each.ran for each in self.found), *self._others) if each.sees_images]
        self._unread = tuple(dict.fromkeys(each.name for each in seen if not read & each.mark))
        self.found, self._kept = list(compress(self.found, stays)), list(compress(self._kept, stays))
        self._changed = list(compress(self._changed, stays))
        self._others = [each for each in self._others if read & each.mark or not each.sees_images]

    def taken(self) -> list[Tensor]:
        """What was kept of each layer's weights; held here no longer."""
        kept, self._kept = self._kept, []
        return kept

    @property
    def changed(self) -> tuple[str, ...]:
        """The layers whose weights the model changed before it gathered values with them."""
        return tuple(dict.fromkeys(each.name for each in compress(self.found, self._changed)))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The modules whose weights are not shown: closed to us, or not between tokens."""
        return tuple(dict.fromkeys(each.name for each in self._others if self._has_part(each)))

    @property
    def apart(self) -> dict[str, tuple[str, ...]]:
        """The modules that have no part in the attention to the images, by the reason."""
        unreached = dict.fromkeys(each.name for each in self._others if not self._has_part(each))
        reasons = {
            "the images do not reach it": tuple(unreached),
            "it did not run": tuple(self._idle),
            "the target's score does not depend on it": self._unread,
        }
        return {why: names for why, names in reasons.items() if names}

    def _has_part(self, other: AttentionRun) -> bool:
        """Whether an attention depends on the images, or belongs to a module of which another does, as positions do."""
        return other.sees_images or any(each.name == other.name for each in self.found)


def _related(name: str, others: Iterable[str]) -> bool:
    """Whether a module is one of the others, inside one or around one, by the dotted names."""
    return any(other == name or other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in others)


def join_attention_layers(parts: Sequence[AttentionTracker], windows: Sequence[Tensor]) -> AttentionLayers:
    """The layers that were found in each part of a batch, with these (b, windows, heads, queries, keys) of all of it.

    Raises UnsupportedModel where there is none, and where the parts differ.
    """
    first = parts[0]
    if not windows:
        kind = "is of another kind, or its tokens' place on the image was lost"
        other = f" (that of {join_names(first.left_out)} {kind})" if first.left_out else ""
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
        AttentionLayer(found.name, each, found.arrangement.queries, found.arrangement.keys, found.arrangement.lead[2])
        for found, each in zip(first.found, windows, strict=True)
    )
    return AttentionLayers(tuple(layers), first.left_out, first.changed, first.apart)


def _alike(one: FoundAttention, other: FoundAttention) -> bool:
    """Whether a layer's tokens are the same cells in two forwards."""
    pairs = ((each.arrangement.queries, each.arrangement.keys) for each in (one, other))
    return all(
        some.grid == others.grid and torch.equal(some.cells, others.cells) for some, others in zip(*pairs, strict=True)
    )
