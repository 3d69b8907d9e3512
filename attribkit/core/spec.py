"""What an architecture says of itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.image_axes import ImageAxes
from attribkit.core.layouts import Layout, find_layout
from attribkit.core.targets.output_kinds import OutputKind


@dataclass(frozen=True)
class ModelSpec:
    """Facts of an architecture that a forward does not show; every one may be left out.

    A plugin describes its family with this; a user passes it as ``Explainer(model, spec=ModelSpec(...))``.
    """

    layer: str | None = None  # dotted name of the layer that methods read; None is chosen from the first forward
    reason: str = "named by the model's spec"  # why that layer
    prefix_tokens: int | None = None  # tokens before those of the patches; None where it is not known
    patch: tuple[int, ...] | None = None  # pixels per token along each axis, where they differ
    channels_last: bool = False  # whether its maps are (b, h, w, c)
    embeds: bool = False  # whether it has no classes: what it returns is an embedding or a map
    outputs: OutputKind | None = None  # what its class scores are; None is seen from a forward
    input_size: tuple[int, ...] | None = None  # (c, *space) that it was made for
    mean: tuple[float, ...] | None = None  # of the training images, per channel, values 0 to 1; what was subtracted
    std: tuple[float, ...] | None = None  # what was divided by
    labels: Sequence[str] | Callable[[], Sequence[str]] | None = None  # the classes' names in order, or what makes them
    image: str | None = None  # the parameter of the forward that takes the images; None is the first
    axes: str | None = None  # of the images, as the forward takes them, such as "btchw"; None is told by a forward

    def __post_init__(self) -> None:
        if self.axes is not None:
            ImageAxes(self.axes)
        if self.outputs not in (None, *get_args(OutputKind)):
            known = ", ".join(map(repr, get_args(OutputKind)))
            raise InvalidInput(f"outputs={self.outputs!r} is no kind of outputs: give one of {known}, or None.")

    def layout(self, shape: tuple[int, ...], images: tuple[int, ...]) -> Layout | None:
        """How an output of this shape is a map of images of that shape, both batch first; None if it is not one."""
        if shape[:1] != images[:1]:
            return None
        return find_layout(
            tuple(shape),
            tuple(images[2:]),
            prefix_tokens=self.prefix_tokens,
            channels_last=self.channels_last,
            patch=self.patch,
        )

    def in_own_axes(self, images: Tensor) -> Tensor:
        """Images (b, c, *space) in the order of axes that is declared."""
        return images if self.axes is None else ImageAxes(self.axes).restored(images).contiguous()

    def arguments(self, images: Tensor, inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the model's forward is called with: positional and keyword arguments; images: (b, c, *space)."""
        images = self.in_own_axes(images)
        return ((images,), inputs) if self.image is None else ((), {self.image: images, **inputs})

    def normalisation(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of the training images, where both are known for so many channels."""
        if self.mean is None or self.std is None or not len(self.mean) == len(self.std) == channels:
            return None
        return self.mean, self.std
