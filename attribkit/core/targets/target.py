"""What is explained: a score per image, computed from the model's outputs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.core.targets.class_outputs import Returned
from attribkit.core.targets.classes import Labels
from attribkit.core.targets.functions import key_of_function

Remark = tuple[str, Tensor | None]  # what a careful reader should know, and of which images, (b,) bool; None is all


class Target(ABC):
    """A score per image, computed from a model's outputs."""

    @abstractmethod
    def __call__(self, outputs: Any) -> PerImage:
        """Score each image from what the model returned; differentiable."""

    @property
    def count(self) -> int | None:
        """How many images it speaks of; None is any number."""
        return None

    @property
    def kind(self) -> Any:
        """Equal for targets that read the same part of a model's outputs."""
        return type(self)

    @property
    def layer_key(self) -> Hashable:
        """What the choice of a layer depends on; None where that is not known, and the choice holds for one call.

        By default the target itself, if it is a frozen dataclass that is compared by its fields.
        """
        parameters = getattr(type(self), "__dataclass_params__", None)
        return self if parameters and parameters.frozen and parameters.eq else None

    @property
    def is_local(self) -> bool:
        """Whether it scores a part of the output's space, as a region of a segmentation."""
        return False

    @property
    def read_layer(self) -> str | None:
        """The layer whose output it scores, told as a `LayerOutput`; None is what the model returns."""
        return None

    @property
    def reads_classes(self) -> bool:
        """Whether it is called with a `Returned`, which `read_scores` and `read_maps` take, not with raw outputs."""
        return False

    @property
    def is_open(self) -> bool:
        """Whether the outputs for the explained images decide what it means, as the predicted class."""
        return False

    def evidence(self, outputs: Any) -> list[Tensor]:
        """What of the outputs decides that, an entry for each image; nothing waits for the device here."""
        return []

    def settled(self, evidence: Sequence[Tensor]) -> "Target":
        """What it means for the images of this evidence; kept for all other versions of them."""
        return self

    def part(self, images: slice) -> "Target":
        """The same question about some of the images."""
        return self

    def repeated(self, times: int) -> "Target | None":
        """The same question about the images, several times in a row; None where it cannot be put so."""
        return None

    def with_indices(self, labels: Labels) -> "Target":
        """The same with every label exchanged for the index of its class."""
        return self

    def prepared(self, images: Tensor, embed: Callable[[Tensor, "Target"], Tensor]) -> "Target":
        """The same, once it knows the explained images, and what the model makes of images of its own.

        embed: from images, and the target that asks, to their embeddings (n, d).
        """
        return self

    def remarks(self, outputs: Any) -> list[Remark]:
        """What a careful reader should know of how these outputs were scored."""
        return []


@dataclass(frozen=True)
class Scored(Target):
    """Any function of the model's outputs.

    function: the model's outputs to one score per image, a tensor of shape (b,).
    """

    function: Callable[[Any], Tensor]

    @property
    def kind(self) -> Any:
        return "function", self.function

    @property
    def layer_key(self) -> Hashable:
        return key_of_function(self.function)

    def __call__(self, outputs: Any) -> PerImage:
        scores = self.function(outputs)
        if not isinstance(scores, Tensor) or scores.ndim != 1:
            got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(
                f"The target {self.function!r} returned {got}; it must return one score per image, (b,)."
            )
        return scores


def handed(target: Target, outputs: Any) -> Any:
    """The outputs as the target is called with them."""
    return outputs.outputs if isinstance(outputs, Returned) and not target.reads_classes else outputs


def check_count(target: Target, images: int) -> None:
    """Refuse a target that speaks of another number of images."""
    if target.count not in (None, images):
        raise InvalidInput(f"{target.count} targets for {images} images: give one for all of them, or one per image.")
