"""The result of a visualizer."""

import base64
import html
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from attribkit._contracts.drawing import save_picture
from attribkit._contracts.visualizer import Responses, Visualizer
from attribkit._core.errors import InvalidInput
from attribkit._core.pictures import encode_png, to_pictures
from attribkit._core.shapes import Images, Picture
from attribkit._display.representations import repr_with_notes, short_value
from attribkit._targets.class_outputs import ClassLabels
from attribkit._targets.logits import ClassLogit
from attribkit._targets.target import Target

_SHOWN = 8  # maximum number of images in a notebook


@dataclass(frozen=True, eq=False)
class Visualization:
    """Images that a unit of a model responds to, with everything that is needed to interpret them.

    Args:
        images: The images, (n, c, *space), normalised as the model expects.
        unit: What the images maximise. For a target of several classes, image i belongs to class i modulo the number of
            classes.
        visualizer: The visualizer with its options, whose repr is the provenance.
        names: A caption for each image: the label of its class, or the repr of the unit.
        responses: The unit's responses at each step, (steps, n); the last row contains the responses to `images`.
        mean: Mean of the training images for each channel, for values from 0 to 1; None if it is not known.
        std: Standard deviation of the training images for each channel; None if it is not known.
        notes: What the user must know to interpret the images.

    Example:
        >>> visualization = Explainer(model).visualize(1, size=(3, 64, 64), steps=2)
        >>> [picture.shape for picture in visualization.pictures()]
        [(64, 64, 3)]
    """

    images: Images
    unit: Target
    visualizer: Visualizer
    names: tuple[str, ...]
    responses: Responses
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    def pixels(self) -> Images:
        """Return the images with the normalisation undone: 0 is black, 1 is white; values may leave this range.

        Returns:
            Images, (n, c, *space).

        Raises:
            InvalidInput: If the mean and the standard deviation of the training images are not known.
        """
        if self.mean is None or self.std is None:
            raise InvalidInput(
                "The model's mean and std are unknown: use Explainer(model, spec=ModelSpec(mean=..., std=...))."
            )
        shape = (-1, *(1,) * (self.images.ndim - 2))
        mean, std = (torch.tensor(each, device=self.images.device).view(shape) for each in (self.mean, self.std))
        return self.images * std + mean

    def pictures(self) -> list[Picture]:
        """Return the images as arrays for display.

        Returns:
            Arrays, (h, w, 3): the pixels clipped to the range 0 to 1, or each image stretched to its full range where
            mean and standard deviation are not known.

        Raises:
            InvalidInput: If the images are not two-dimensional with 1 or 3 channels.
        """
        if not self._is_drawable:
            raise InvalidInput(
                "Pictures need images of shape (n, c, h, w) with 1 or 3 channels, got shape "
                f"{tuple(self.images.shape)}: select slices or channels of .images."
            )
        if self.mean is None:
            return to_pictures(self.images)
        pixels = (255 * self.pixels().clamp(0, 1)).round().byte()
        return [each.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy() for each in pixels]

    def save(self, path: str | Path) -> None:
        """Write a picture of the images, that of `attribkit.gallery`.

        Args:
            path: Path of the picture; its suffix selects the format, such as .png or .pdf.

        Raises:
            InvalidInput: If the suffix is not that of a figure, or the images cannot be drawn.
            UnreadableFile: If the file cannot be written.
        """
        save_picture(path, "gallery", self)

    @property
    def _is_drawable(self) -> bool:
        return self.images.ndim == 4 and self.images.shape[1] in (1, 3)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        reached = ", ".join(f"{response:.3g}" for response in self.responses[-1][:_SHOWN].tolist())
        more = ", ..." if len(self) > _SHOWN else ""
        text = f"{short_value(self.unit)}, images {tuple(self.images.shape)}, responses {reached}{more}"
        steps = len(self.responses) - 1
        return repr_with_notes(f"Visualization({short_value(self.visualizer)}, {text} after {steps} steps)", self.notes)

    def _repr_html_(self) -> str:
        """Return HTML for notebooks, without a script: the first pictures, the provenance and the notes."""
        shown = islice(self.pictures() if self._is_drawable else (), _SHOWN)
        pictures = [base64.b64encode(encode_png(each)).decode() for each in shown]
        images = "".join(f'<img style="margin:2px" src="data:image/png;base64,{each}">' for each in pictures)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        title = html.escape(f"{self.visualizer!r} of {self.unit!r}")
        return f"<div>{images}<br><code>{title}</code><ul>{notes}</ul></div>"


def image_names(unit: Target, labels: ClassLabels, images: int) -> tuple[str, ...]:
    """Return a caption for each image: the label of its class where it is known, otherwise the repr of the unit."""
    if not isinstance(unit, ClassLogit):
        return (repr(unit),) * images
    class_names = labels() if callable(labels) else labels
    classes = unit.index if isinstance(unit.index, tuple) else (unit.index,)
    captions = [class_names[i] if class_names and i < len(class_names) else f"class {i}" for i in classes]
    return tuple(captions[image % len(captions)] for image in range(images))
