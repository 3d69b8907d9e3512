"""What an attribution is, once computed."""

import base64
import html
import json
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attribkit.core.errors import InvalidInput, UnreadableFile
from attribkit.core.method import Method
from attribkit.core.overlay import overlay, png, stretched
from attribkit.core.sections import evenly, sections
from attribkit.core.shapes import Heatmaps, Images, Picture, Scores
from attribkit.core.targets.binary import Binary
from attribkit.core.targets.logits import ClassLogit, Contrast, Counterfactual, Probability
from attribkit.core.targets.target import Target

Reduction = Literal["sum", "sum_of_magnitudes", "largest_magnitude"]

_FORMAT = "1"  # of the files that save() writes
_SHOWN = 8  # pictures in a notebook
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of axes of space


@dataclass(frozen=True)
class Recorded:
    """A method or a target as a file remembers it: enough to caption and to compare, not to run."""

    name: str
    text: str  # the repr of the original

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores, and all that is needed to read, redraw or re-score them."""

    scores: Scores  # as the method computed them: signed, at its own resolution
    x: Images  # what was explained
    target: Target | Recorded  # with the predicted classes made explicit
    method: Method | Recorded  # options and all; its repr is the provenance
    notes: tuple[str, ...] = ()  # what a careful reader should know

    def heatmap(self, reduce: Reduction = "sum", size: Sequence[int] | None = None) -> Heatmaps:
        """One number per pixel of x, (b, *space): the channels reduced, then resized linearly; not normalised.

        reduce: for scores of several channels the choice changes the ranking of the pixels. size: another than that of
        x, such as the photograph's.
        """
        return resized(_reduced(self.scores, reduce), size or self.x.shape[2:]).squeeze(1)

    def to(self, device: torch.device | str) -> "Attribution":
        """The same on another device."""
        return replace(self, scores=self.scores.to(device), x=self.x.to(device))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: the tensors, and the rest as JSON in its metadata."""
        record = {"target": _record(self.target), "method": _record(self.method), "notes": self.notes}
        tensors = {"scores": self.scores.clone().contiguous(), "x": self.x.clone().contiguous()}  # that share nothing
        try:
            save_file(tensors, path, metadata={"attribkit": _FORMAT, "attribution": json.dumps(record)})
        except (OSError, SafetensorError) as error:
            raise UnreadableFile(f"{str(path)!r} cannot be written ({error}): look at the folder.") from error

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Attribution":
        """Read what `save` wrote; the method comes back as a record of its repr, since it may not be installed."""
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                record = json.loads((file.metadata() or {})["attribution"])
                scores, x = file.get_tensor("scores"), file.get_tensor("x")
            method = Recorded(record["method"]["name"], record["method"]["repr"])
            return cls(scores, x, _read_target(record["target"]), method, tuple(record["notes"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UnreadableFile(f"{path} is no saved attribution ({error}): give a file that save() wrote.") from error

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, images: int | slice) -> "Attribution":
        """The attribution of one image (still a batch) or of a slice of them."""
        if not isinstance(images, slice):
            index = operator.index(images)
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} of an attribution of {len(self)}")
            images = slice(index % len(self), index % len(self) + 1)
        target = self.target.part(images) if isinstance(self.target, Target) else self.target
        return replace(self, scores=self.scores[images], x=self.x[images], target=target)

    def __iter__(self) -> Iterator["Attribution"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        shape, grid = tuple(self.x.shape), tuple(self.scores.shape)
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"Attribution({self.method!r}, {self.target!r}, x {shape}, scores {grid}){notes}"

    def _repr_html_(self) -> str:
        """Overlays of the first images, or of sections of the first clip; the provenance and the notes; no script."""
        pictures = [base64.b64encode(png(each)).decode() for each in self._overlays()]
        images = "".join(f'<img style="margin:2px" src="data:image/png;base64,{each}">' for each in pictures)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        title = html.escape(f"{self.method!r} of {self.target!r}")
        return f"<div>{images}<br><code>{title}</code><ul>{notes}</ul></div>"

    def _overlays(self) -> list[Picture]:
        """The first few images under their maps; of clips and volumes, some frames or slices of the first."""
        pictures, heatmaps = stretched(self.x[:_SHOWN]), self.heatmap("sum_of_magnitudes")
        if self.x.ndim == 4:
            return [overlay(picture, heatmap) for picture, heatmap in zip(pictures, heatmaps, strict=False)]
        if self.x.ndim != 5 or not pictures:
            return []
        places = evenly(self.x.shape[2], min(_SHOWN, self.x.shape[2]))
        chosen = sections(pictures[0], heatmaps[0], places)
        return [overlay(each.picture, each.heatmap, whole=heatmaps[0]) for each in chosen]


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(b, k, *grid) to (b, k, *size), linear between the centres of the cells; a constant map stays so exactly."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    large = F.interpolate(maps, tuple(size), mode=_LINEAR[len(size)], align_corners=False)
    low, high = (each.view(*maps.shape[:2], *(1,) * len(size)) for each in maps.flatten(2).aminmax(dim=2))
    return large.clamp(low, high)


def _reduced(scores: Tensor, reduce: Reduction) -> Tensor:
    """The channels of the scores made one, (b, 1, *grid)."""
    if reduce == "sum":
        return scores.sum(1, keepdim=True)
    if reduce == "sum_of_magnitudes":
        return scores.abs().sum(1, keepdim=True)
    if reduce == "largest_magnitude":
        return scores.gather(1, scores.abs().argmax(1, keepdim=True))
    raise InvalidInput(f"reduce={reduce!r} is no way to reduce channels; known: {', '.join(get_args(Reduction))}.")


def _record(what: Any) -> dict[str, Any]:
    """A method or target as JSON can hold it."""
    record = {"name": getattr(what, "name", type(what).__name__), "repr": repr(what)}
    return record | {"fields": vars(what)} if type(what) in _CLASS_TARGETS.values() else record


_CLASS_TARGETS = {cls.__name__: cls for cls in (ClassLogit, Probability, Contrast, Counterfactual, Binary)}


def _read_target(record: dict[str, Any]) -> Target | Recorded:
    if record["name"] not in _CLASS_TARGETS:
        return Recorded(record["name"], record["repr"])
    return _CLASS_TARGETS[record["name"]](**record["fields"])
