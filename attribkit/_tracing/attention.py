"""Layers of attention: the weights of each layer, and the image positions of its queries and keys."""

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

from attribkit._coordinates.tracking import track_coordinates
from attribkit._core.errors import InvalidInput, UnsupportedModel, join_names
from attribkit._core.nested import tensor_entries
from attribkit._state.hooks import observe_modules, track_running_modules
from attribkit._tracing.attention_grid import Arrangement, Tokens, Windows, arrangement_of
from attribkit._tracing.attention_recorder import (
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

_BATCHED = 3  # axes of a softmax that may be attention or not; attention with heads has more
_ATTENTION_NAME = re.compile(r"(^|[._])(attn|attention)$")  # the end of the name of an attention module


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """The weights of one attention, and the image positions of its queries and keys.

    Attention between all tokens has one window. Shifts of windows are undone: queries and keys have the grid cells of
    the image, wherever the model moved them.

    Args:
        name: Dotted name of the innermost running module with parameters.
        windows: Weights as the model computes them; each row sums to one.
        queries: Tokens of the queries.
        keys: Tokens of the keys.
        heads: Number of heads of the model; the windows of a layer whose heads were fused have one.
    """

    name: str
    windows: Windows
    queries: Tokens
    keys: Tokens
    heads: int

    @property
    def weights(self) -> Float[Tensor, "b heads queries keys"]:
        """The weights of all queries for all keys; windows are stitched together at each access.

        Tokens are numbered as on the image: prefix tokens first, then the grid cells in reading order, then the suffix,
        such as detection tokens. For windows, a weight is zero between tokens of different windows, and padding is left
        out.
        """
        queries, keys = self.queries.numbers, self.keys.numbers
        if self.windows.shape[1] == 1 and _is_in_order(queries) and _is_in_order(keys):
            return self.windows[:, 0]
        if not self.queries.count:
            raise InvalidInput(
                f"The queries of {self.name!r} do not have positions on the image: use .windows, not .weights."
            )
        is_token = queries.ge(0)[:, :, None] & keys.ge(0)[:, None]
        pairs = (queries[:, :, None] * self.keys.count + keys[:, None])[is_token]
        shape = (self.queries.count, self.keys.count)
        stitched = self.windows.new_zeros(len(self.windows), self.windows.shape[2], math.prod(shape))
        return stitched.index_add(2, pairs, self.windows.movedim(2, 1)[..., is_token]).unflatten(2, shape)

    def received(self, queries: Bool[Tensor, "windows queries"] | None = None) -> Float[Tensor, "b heads *grid"]:
        """Compute the attention that each cell of the keys' grid receives, the mean over queries.

        Args:
            queries: Mask of the queries to average; None means all except padding.

        Returns:
            One map per image and head. The attention to tokens without a position is left out, so the sum is at most
            one.
        """
        queries = self.queries.real if queries is None else queries
        weights = queries / queries.sum().clamp(min=1)
        per_key = torch.einsum("bwhqk,wq->bhwk", self.windows, weights.to(self.windows))
        on_grid = self.keys.cells.ge(0)
        received = self.windows.new_zeros(*per_key.shape[:2], math.prod(self.keys.grid))
        return received.index_add(2, self.keys.cells[on_grid], per_key[..., on_grid]).unflatten(2, self.keys.grid)

    def attention_from(self, query: int | tuple[int, ...]) -> Float[Tensor, "b heads *grid"]:
        """Return the attention from one query, on the keys' grid.

        Args:
            query: A cell of the queries' grid, such as (row, column); or the number of a token without a position: 0 is
                the class token of most models, and the first token after a prefix of 1 and a grid of 4 x 6 is 25.

        Returns:
            One map per image and head.
        """
        return self.received(self.queries.numbers == self.queries.number(query))

    def __repr__(self) -> str:
        _, windows, heads, queries, keys = self.windows.shape
        inside = f" in {windows} windows of {queries} by {keys}" if windows > 1 else ""
        return f"AttentionLayer({self.name!r}, {heads} heads, {self.queries} queries by {self.keys} keys{inside})"


@dataclass(frozen=True, eq=False)
class AttentionLayers(Sequence[AttentionLayer]):
    """The layers of attention of a forward, in execution order.

    Args:
        layers: The layers.
        left_out: Modules whose attention is, as far as can be determined, not between tokens.
        changed: Layers whose weights the model changes before it applies them to the values.
        excluded: Modules that do not take part in the attention to the images, by reason.
    """

    layers: tuple[AttentionLayer, ...]
    left_out: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    excluded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: `gaps`, and the modules that were left out."""
        excluded = (f"left out because {why}: {join_names(names)}" for why, names in self.excluded.items())
        return (*self.gaps, *excluded)

    @property
    def gaps(self) -> tuple[str, ...]:
        """Notes on attention to the images that these layers do not contain."""
        missing = (
            f"the weights of {join_names(self.left_out)} are missing: they are not between tokens with a position on "
            "the image (as in attention over channels, with learned queries, or linear attention), or the positions "
            "could not be tracked"
        )
        changing = (
            f"the weights of {join_names(self.changed)} are the output of the softmax; the model changes them further "
            "before it applies them to the values, as talking heads do"
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


def _has_weights(module: nn.Module) -> bool:
    """Return whether a module has children and a matrix, like an attention module and unlike a normalisation."""
    return any(True for _ in module.children()) and any(each.ndim > 1 for each in module.parameters())


def _is_in_order(numbers: Tensor) -> bool:
    return bool((numbers[0] == torch.arange(numbers.shape[1], device=numbers.device)).all())


class AttentionRun(NamedTuple):
    """A run of an attention module in a forward.

    Args:
        name: Dotted name of the module.
        sources: Bits of the sources that it depends on.
        mark: Bit of this run in the sources of the tensors computed from it.
    """

    name: str
    sources: int
    mark: int

    @property
    def depends_on_images(self) -> bool:
        """Whether the attention depends on the images, as far as can be determined."""
        return bool(self.sources & (IMAGES | UNKNOWN))


class TrackedAttention(NamedTuple):
    """A layer of attention between tokens of the images, recorded while the model runs."""

    run: AttentionRun
    arrangement: Arrangement

    @property
    def name(self) -> str:
        """The dotted name of the module."""
        return self.run.name


class AttentionTracker:
    """Tracker of the attention layers of a forward.

    Args:
        keep: Called with the weights and their arrangement; returns the weights that the model continues with, and the
            tensor to keep.
    """

    def __init__(self, keep: Callable[[AttentionWeights, Arrangement], tuple[AttentionWeights, Tensor]]) -> None:
        self.found: list[TrackedAttention] = []
        self._keep = keep
        self._kept_weights: list[Tensor] = []
        self._other_runs: list[AttentionRun] = []  # attention that is not between tokens of the images
        self._idle: list[str] = []  # attention modules that did not run
        self._unused: tuple[str, ...] = ()  # attention modules that do not affect the score
        self._changed: list[bool] = []
        self._gathering = record_gathering()
        self._sources: track_sources | None = None

    @contextmanager
    def track(self, module: nn.Module, x: Tensor) -> Iterator[None]:
        """Track the attention of the next forward of these images, and what is computed from its outputs."""
        modules = dict(module.named_modules())
        weighted = {name for name, each in modules.items() if any(True for _ in each.parameters())}
        attending = {
            name: each for name, each in modules.items() if _ATTENTION_NAME.search(name) and _has_weights(each)
        }
        module_runs: list[AttentionRun] = []
        sources = self._sources = track_sources(module, x)

        def record(weights: Tensor, certain: bool) -> Tensor:
            if sources.is_finished:  # a target may run the model again
                return weights
            name, origin = next((each for each in reversed(names) if each in weighted), ""), sources.of(weights)
            with untracked():
                is_certain, padded = certain or bool(origin & PRODUCT), bool(origin & PADDING)
                arrangement = arrangement_of(tracker.of(weights), certain=is_certain, padded=padded)
            if arrangement is None or arrangement.lead[0] != len(x):
                if certain or weights.ndim > _BATCHED:
                    self._other_runs.append(AttentionRun(name, origin, sources.add_mark(weights, origin)))
                return weights
            weights, kept = self._keep(weights, arrangement)
            self._gathering.watch(weights, len(self.found))
            self.found.append(
                TrackedAttention(AttentionRun(name, origin, sources.add_mark(weights, origin)), arrangement)
            )
            self._kept_weights.append(kept)
            return weights

        def record_module(name: str, _module: nn.Module, output: Any) -> None:
            tensor = next((each for _, each in tensor_entries(output)), None)
            if name in attending and tensor is not None and not sources.is_finished:
                origin = sources.of(tensor)
                module_runs.append(AttentionRun(name, origin, sources.add_mark(tensor, origin)))

        with (
            track_running_modules(module) as names,
            observe_modules(module, record_module),
            sources.inputs_as_constants(),
            track_coordinates(x) as tracker,
            sources,
            self._gathering,
            record_attention(record),
        ):
            yield
        recorded = [each.name for each in self.found] + [each.name for each in self._other_runs]
        self._other_runs += [each for each in module_runs if not _is_related(each.name, recorded)]
        used = sources.parameters_used
        idle = [name for name, each in attending.items() if not any(id(p) in used for p in each.parameters())]
        self._idle = [name for name in idle if not _is_related(name, [*recorded, *(each.name for each in module_runs)])]
        self._changed = [i not in self._gathering.gathering for i in range(len(self.found))]

    def keep_used_by(self, scores: Sequence[Tensor]) -> None:
        """Drop the layers that none of these scores depends on; the scores must be computed inside the context."""
        used = self._sources.of(scores) if self._sources else UNKNOWN
        if used & UNKNOWN or not any(used & each.run.mark for each in self.found):
            return
        is_used = [bool(used & each.run.mark) for each in self.found]
        recorded = [each for each in (*(each.run for each in self.found), *self._other_runs) if each.depends_on_images]
        self._unused = tuple(dict.fromkeys(each.name for each in recorded if not used & each.mark))
        self.found, self._kept_weights = (
            list(compress(self.found, is_used)),
            list(compress(self._kept_weights, is_used)),
        )
        self._changed = list(compress(self._changed, is_used))
        self._other_runs = [each for each in self._other_runs if used & each.mark or not each.depends_on_images]

    def take_kept(self) -> list[Tensor]:
        """Return the kept tensor of each layer's weights, and release it."""
        kept, self._kept_weights = self._kept_weights, []
        return kept

    @property
    def changed(self) -> tuple[str, ...]:
        """The layers whose weights the model changed before it applied them to the values."""
        return tuple(dict.fromkeys(each.name for each in compress(self.found, self._changed)))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The modules whose weights are missing, in opaque kernels or not between tokens."""
        return tuple(dict.fromkeys(each.name for each in self._other_runs if self._is_relevant(each)))

    @property
    def excluded(self) -> dict[str, tuple[str, ...]]:
        """The modules that do not take part in the attention to the images, by reason."""
        independent = dict.fromkeys(each.name for each in self._other_runs if not self._is_relevant(each))
        reasons = {
            "it does not depend on the images": tuple(independent),
            "it did not run": tuple(self._idle),
            "the score does not depend on it": self._unused,
        }
        return {why: names for why, names in reasons.items() if names}

    def _is_relevant(self, other: AttentionRun) -> bool:
        """Return whether an attention depends on the images, or another attention of its module does."""
        return other.depends_on_images or any(each.name == other.name for each in self.found)


def _is_related(name: str, others: Iterable[str]) -> bool:
    """Return whether a module is among the others, or contains or is contained in one, by the dotted names."""
    return any(other == name or other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in others)


def join_attention_layers(parts: Sequence[AttentionTracker], windows: Sequence[Tensor]) -> AttentionLayers:
    """Join the layers of the parts of a batch.

    Args:
        parts: The trackers of the parts.
        windows: Weights of each layer for the whole batch, (b, windows, heads, queries, keys).

    Raises:
        UnsupportedModel: If attention was not found, or the tokens of the parts differ.
    """
    first = parts[0]
    if not windows:
        kind = "is of another kind, or the positions of its tokens could not be tracked"
        other = f" (that of {join_names(first.left_out)} {kind})" if first.left_out else ""
        raise UnsupportedModel(
            f"No attention between image tokens was found in this model{other}. Use gradcam, or attention_gates for "
            "the gates of attention modules inside a CNN."
        )
    if not all(
        _has_same_tokens(one, other) for part in parts[1:] for one, other in zip(first.found, part.found, strict=True)
    ):
        raise UnsupportedModel(
            "This model attends to different tokens for different images, so the weights cannot be stacked into one "
            "batch. Pass one image at a time."
        )
    layers = (
        AttentionLayer(found.name, each, found.arrangement.queries, found.arrangement.keys, found.arrangement.lead[2])
        for found, each in zip(first.found, windows, strict=True)
    )
    return AttentionLayers(tuple(layers), first.left_out, first.changed, first.excluded)


def _has_same_tokens(one: TrackedAttention, other: TrackedAttention) -> bool:
    """Return whether a layer's tokens are the same cells in two forwards."""
    pairs = ((each.arrangement.queries, each.arrangement.keys) for each in (one, other))
    return all(
        some.grid == others.grid and torch.equal(some.cells, others.cells) for some, others in zip(*pairs, strict=True)
    )
