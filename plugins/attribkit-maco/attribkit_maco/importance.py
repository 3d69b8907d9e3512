"""The importance of each pixel of generated images, beside the images."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attribkit import Explainer, HookedModel, InvalidInput, Target, Visualization, Visualizer


@dataclass(frozen=True)
class Generated:
    """The result of a visualizer with the importance of each pixel.

    Args:
        images: Images, (n, c, h, w), normalised as the model expects.
        responses: Responses at each step, and of the images in the last row, (steps + 1, n).
        importance: Absolute gradient of the response with respect to the images, summed over channels, views and
            steps, (n, h, w).
    """

    images: Tensor
    responses: Tensor
    importance: Tensor


class ImportanceVisualizer(Visualizer):
    """Base class for visualizers that accumulate the importance of each pixel while they optimise an image."""

    def __call__(self, model: HookedModel, unit: Target, blank: Tensor) -> tuple[Tensor, Tensor]:
        generated = self.generate(model, unit, blank)
        return generated.images, generated.responses

    @abstractmethod
    def generate(self, model: HookedModel, unit: Target, blank: Tensor) -> Generated:
        """Generate images that excite the unit, with the importance of their pixels.

        Args:
            model: As for `Visualizer.__call__`.
            unit: As for `Visualizer.__call__`.
            blank: As for `Visualizer.__call__`.

        Returns:
            The images, their responses and the importance of their pixels.
        """


@dataclass(frozen=True)
class _Recorded(Visualizer):
    """A visualizer that keeps the importance which another one computes."""

    name: ClassVar[str] = "importance"
    source: ClassVar[str] = "as of the visualizer"
    visualizer: ImportanceVisualizer
    kept: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, model: HookedModel, unit: Target, blank: Tensor) -> tuple[Tensor, Tensor]:
        generated = self.visualizer.generate(model, unit, blank)
        self.kept.append(generated.importance)
        return generated.images, generated.responses


def visualize_with_importance(
    explainer: Explainer,
    unit: Any,
    visualizer: ImportanceVisualizer,
    *,
    size: int | tuple[int, ...] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> tuple[Visualization, Tensor]:
    """Run a visualizer as `Explainer.visualize` does, and return the importance of each pixel too.

    Args:
        explainer: The explainer of the model.
        unit: As for `Explainer.visualize`.
        visualizer: An instance of `Maco` or `FeatureAccentuation`.
        size: As for `Explainer.visualize`.
        inputs: As for `Explainer.visualize`.

    Returns:
        The visualization, equal to that of `Explainer.visualize`, and the importance, (n, h, w): the absolute gradient
        of the response with respect to the image, summed over channels, views and steps. It is not normalised.

    Raises:
        InvalidInput: If `visualizer` is not such an instance, or as for `Explainer.visualize`.
    """
    if not isinstance(visualizer, ImportanceVisualizer):
        raise InvalidInput(
            f"visualizer must be an instance of Maco or FeatureAccentuation, got {visualizer!r}: pass Maco(...) with "
            "its options."
        )
    recorded = _Recorded(visualizer)
    made = explainer.visualize(unit, recorded, size=size, inputs=inputs)
    return replace(made, visualizer=visualizer), recorded.kept[0]


def transparent_pictures(
    visualization: Visualization, importance: Tensor, percentile: float = 80.0
) -> list[NDArray[np.uint8]]:
    """Return pictures whose unimportant pixels are transparent.

    Args:
        visualization: The images.
        importance: Importance of each pixel, (n, h, w).
        percentile: Percentile of each image's importance from which on pixels are opaque, above 0 to 100. Below it the
            opacity is proportional to the importance.

    Returns:
        RGBA arrays, (h, w, 4).

    Raises:
        InvalidInput: If the importance does not have the shape of the images, or the percentile is out of range.
    """
    images = visualization.images
    if tuple(importance.shape) != (len(images), *images.shape[2:]):
        raise InvalidInput(
            f"importance must have shape {(len(images), *images.shape[2:])}, one number for each pixel, got "
            f"{tuple(importance.shape)}."
        )
    if not 0 < percentile <= 100:
        raise InvalidInput(f"percentile must be above 0 and at most 100, got {percentile!r}.")
    values = importance.detach().float().cpu().flatten(1).numpy()
    opaque = np.percentile(values, percentile, axis=1, keepdims=True)
    alpha = np.divide(values, opaque, out=np.ones_like(values), where=opaque > 0).clip(0, 1)
    bytes_ = np.round(255 * alpha).astype(np.uint8).reshape(len(values), *images.shape[2:], 1)
    return [np.concatenate(pair, 2) for pair in zip(visualization.pictures(), bytes_, strict=True)]
