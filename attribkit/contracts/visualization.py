"""What a visualization is, once made."""

import base64
import html
from dataclasses import dataclass
from itertools import islice

import torch

from attribkit.contracts.visualizer import Responses, Visualizer
from attribkit.core.errors import InvalidInput
from attribkit.core.pictures import png, stretched
from attribkit.core.shapes import Images, Picture
from attribkit.targets.class_outputs import ClassLabels
from attribkit.targets.logits import ClassLogit
from attribkit.targets.target import Target

_SHOWN = 8  # images in a notebook


@dataclass(frozen=True, eq=False)
class Visualization:
    """Images that a unit responds to, and how they came about."""

    images: Images  # normalised as the model expects
    unit: Target  # for a target of several classes, image i is of class i modulo their number
    visualizer: Visualizer  # options and all; its repr is the provenance
    names: tuple[str, ...]  # what each image was made for, in words
    responses: Responses  # of the unit, step by step; the last row is to the images themselves
    mean: tuple[float, ...] | None = None  # of the training images, per channel, values 0 to 1; None is not known
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()  # what a careful reader should know

    def pixels(self) -> Images:
        """The images with the training mean and standard deviation put back: 0 is black, 1 is white.

        Raises InvalidInput where these are not known.
        """
        if self.mean is None or self.std is None:
            raise InvalidInput(
                "The model's mean and std are not known: give Explainer(model, spec=ModelSpec(mean=..., std=...))."
            )
        shape = (-1, *(1,) * (self.images.ndim - 2))
        mean, std = (torch.tensor(each, device=self.images.device).view(shape) for each in (self.mean, self.std))
        return self.images * std + mean

    def pictures(self) -> list[Picture]:
        """The images for eyes: the pixels clipped to 0 to 1, or each image stretched where mean and std are not known.

        Raises InvalidInput for volumes and for channels that are no colours.
        """
        if not self._is_drawable:
            raise InvalidInput(
                f"Pictures are made of images (n, c, h, w) of 1 or 3 channels, these are {tuple(self.images.shape)}: "
                "take slices or channels of .images."
            )
        if self.mean is None:
            return stretched(self.images)
        pixels = (255 * self.pixels().clamp(0, 1)).round().byte()
        return [each.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy() for each in pixels]

    @property
    def _is_drawable(self) -> bool:
        return self.images.ndim == 4 and self.images.shape[1] in (1, 3)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        reached = ", ".join(f"{response:.3g}" for response in self.responses[-1].tolist())
        notes = "".join(f"\n  {note}" for note in self.notes)
        steps = len(self.responses) - 1
        return (
            f"Visualization({self.visualizer!r}, {self.unit!r}, images {tuple(self.images.shape)}, "
            f"responses {reached} after {steps} steps){notes}"
        )

    def _repr_html_(self) -> str:
        """The first pictures, the provenance and the notes; no script."""
        shown = islice(self.pictures() if self._is_drawable else (), _SHOWN)
        pictures = [base64.b64encode(png(each)).decode() for each in shown]
        images = "".join(f'<img style="margin:2px" src="data:image/png;base64,{each}">' for each in pictures)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        title = html.escape(f"{self.visualizer!r} of {self.unit!r}")
        return f"<div>{images}<br><code>{title}</code><ul>{notes}</ul></div>"


def names(unit: Target, labels: ClassLabels, images: int) -> tuple[str, ...]:
    """What each of the images was made for: the label of a class where there is one, else the unit as it prints."""
    if not isinstance(unit, ClassLogit):
        return (repr(unit),) * images
    known = labels() if callable(labels) else labels
    classes = unit.index if isinstance(unit.index, tuple) else (unit.index,)
    told = [known[each] if known and each < len(known) else f"class {each}" for each in classes]
    return tuple(told[image % len(told)] for image in range(images))
