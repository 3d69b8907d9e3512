"""The result of the discovery of concepts."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from attribkit import Attribution, Direction, Explainer, InvalidInput

from .arguments import check_choice, check_image_batch, check_integer
from .crops import Box
from .drawing import Row, draw_concepts
from .importance import Importance, measure_importance
from .latent import Basis, ConceptCoefficients, MaskedConceptScores
from .pictures import to_pictures
from .sobol import Sequence as Sampler
from .sobol import jansen_design

_UNDEFINED = -1.0  # sorts concepts without a defined importance behind all others


@dataclass(frozen=True)
class Crop:
    """A part of an image that is typical of a concept.

    Args:
        image: Index of the image.
        box: Top, bottom, left and right edge in pixels; bottom and right are exclusive.
        coefficient: Coefficient of the concept.
        pixels: The part of the normalised image, (c, h, w).
    """

    image: int
    box: Box
    coefficient: float
    pixels: Float[Tensor, "c h w"]


@dataclass(frozen=True, eq=False, repr=False)
class Concepts:
    """Concepts of a layer: directions whose non-negative combinations approximate its activations.

    ``len(concepts)`` is their number, and ``concepts[i]`` is a `Direction`, a target that any method explains. They are
    in the order of decreasing mean coefficient.

    Args:
        explainer: The explainer of the model.
        layer: Dotted name of the layer.
        basis: The concepts, with unit length, (k, d).
        coefficients: Coefficient of each concept in each sample, (samples, k).
        reconstruction_error: Norm of what the concepts do not explain, relative to that of the samples.
        images: The images that the concepts were found in.
        image_of_sample: Index of the image of each sample.
        box_of_sample: The part of the image that each sample stands for.
        target: The default target of `importance`; None means the predicted class of each image.
        notes: What the user must know to interpret the concepts.

    Example:
        >>> concepts = find_concepts(explainer, images, k=8)
        >>> explainer.attribute(images, "gradcam", target=concepts[0])
        >>> concepts.figure().savefig("concepts.png")
    """

    explainer: Explainer
    layer: str
    basis: Float[Tensor, "k d"]
    coefficients: Float[Tensor, "samples k"]
    reconstruction_error: float
    images: Float[Tensor, "b c h w"]
    image_of_sample: Int[Tensor, " samples"]
    box_of_sample: Sequence[Box]
    target: Any = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.basis)

    def __getitem__(self, concept: int) -> Direction:
        """Return a concept as a target: the mean over the grid of the activation's product with it, from index 0."""
        return Direction(self.layer, self.basis[self._index(concept)])

    def __iter__(self) -> Iterator[Direction]:
        return (self[concept] for concept in range(len(self)))

    def heatmaps(self, images: Float[Tensor, "b c h w"] | None = None) -> Float[Tensor, "b k rows columns"]:
        """Return the coefficient of each concept at each cell of the layer's grid.

        The coefficients are the non-negative least squares for the fixed concepts.

        Args:
            images: Images, preprocessed as the model expects; None means those that the concepts were found in.

        Returns:
            The coefficients, on the device of the images.

        Raises:
            InvalidInput: If the layer has negative activations for these images.
        """
        return self._coefficient_maps(images).scores

    def crops(self, concept: int, n: int = 5) -> list[Crop]:
        """Return the crops with the largest coefficients of a concept, at most one of each image.

        Args:
            concept: Index of the concept.
            n: Number of crops, at most the number of images.

        Returns:
            The crops, by decreasing coefficient; without those whose coefficient is zero.
        """
        concept = self._index(concept)
        if check_integer("n", n) > len(self.images):
            raise InvalidInput(f"n must be at most the number of images, {len(self.images)}, got {n}.")
        column, found = self.coefficients[:, concept], dict[int, int]()
        for sample in column.argsort(descending=True, stable=True).tolist():
            if len(found) < n and column[sample] > 0:
                found.setdefault(int(self.image_of_sample[sample]), sample)
        return [self._crop(image, sample, float(column[sample])) for image, sample in found.items()]

    def importance(
        self,
        target: Any = None,
        *,
        images: Float[Tensor, "b c h w"] | None = None,
        designs: int = 128,
        sequence: Sampler = "sobol",
        seed: int = 0,
    ) -> Importance:
        """Return the total Sobol index of each concept for the score of a target.

        The coefficients of each concept are multiplied by a mask from 0 to 1, the same at all cells. The reconstruction
        from the masked coefficients replaces the layer's output, and the rest of the model computes the score.

        Args:
            target: As for `Explainer.attribute`; None means the target that the concepts were found for.
            images: Images whose score is explained; None means those that the concepts were found in.
            designs: Number of points, n; the rest of the model runs (k + 1) n times for each image, in batches unless
                the target is a function. A power of two for the Sobol sequence. For a score that is linear in up to ten
                concepts, the standard deviation of an index over seeds is about 0.02 with 128 points, 0.1 with 32.
            sequence: "sobol" or "halton", both scrambled.
            seed: Seed of the scrambling.

        Returns:
            The indices, for each image and their mean.

        Raises:
            InvalidInput: If an argument is not valid, or the layer has negative activations for these images.
            UnsupportedModel: If the layer's output contains more than a map.

        Reference:
            Fel et al., CRAFT, CVPR 2023, Section 3.3; Jansen, 1999.
        """
        check_choice("sequence", sequence, ("sobol", "halton"))
        jansen_design(1, designs, sequence, seed)  # raises for options that do not fit together
        images = self.images if images is None else images
        check_image_batch("images", images)
        method = MaskedConceptScores(self.layer, self._rows, designs, sequence, seed)
        return measure_importance(self.explainer, images, self.target if target is None else target, method)

    def figure(
        self,
        images: Float[Tensor, "b c h w"] | None = None,
        *,
        importance: Importance | None = None,
        concepts: Sequence[int] | None = None,
        crops: int = 4,
    ) -> Figure:
        """Draw a row for each concept: its importance, typical crops, and its coefficients over images.

        Args:
            images: Images to draw the coefficients over; None means the first three that the concepts were found in.
            importance: A result of `importance`; None computes it with the default arguments.
            concepts: Indices of the concepts to draw; None means all, in the order of decreasing importance.
            crops: Number of typical crops, at most the number of images that the concepts were found in.

        Returns:
            The figure; write it with its ``savefig``.
        """
        check_integer("crops", crops)
        images = self.images[:3] if images is None else images
        importance = self.importance() if importance is None else importance
        values = importance.values.nan_to_num(_UNDEFINED)
        if len(values) != len(self):
            raise InvalidInput(f"importance has {len(values)} values for {len(self)} concepts: pass their own.")
        order = values.argsort(descending=True, stable=True).tolist() if concepts is None else list(concepts)
        attribution = self._coefficient_maps(images)
        normalisation = self.explainer.model.spec.normalisation(images.shape[1])
        rows = [
            Row(
                title=f"concept {concept}\nimportance {float(importance.values[concept]):.2f}",
                crops=to_pictures(
                    [each.pixels for each in self.crops(concept, min(crops, len(self.images)))], normalisation
                ),
                heatmaps=replace(attribution, scores=attribution.scores[:, concept : concept + 1]).heatmap(),
            )
            for concept in map(self._index, order)
        ]
        return draw_concepts(rows, to_pictures(images, normalisation), self._caption(importance))

    def __repr__(self) -> str:
        notes = "".join(f"\n  {note}" for note in self.notes)
        return (
            f"Concepts({len(self)} of layer {self.layer!r}, {len(self.coefficients)} samples of {len(self.images)} "
            f"images, reconstruction error {self.reconstruction_error:.3f}){notes}"
        )

    @property
    def _rows(self) -> Basis:
        return tuple(map(tuple, self.basis.tolist()))

    def _index(self, concept: int) -> int:
        if isinstance(concept, bool) or not isinstance(concept, int) or not 0 <= concept < len(self):
            raise InvalidInput(f"concept must be an index from 0 to {len(self) - 1}, got {concept!r}.")
        return concept

    def _coefficient_maps(self, images: Tensor | None) -> Attribution:
        images = self.images if images is None else images
        check_image_batch("images", images)
        return self.explainer.attribute(images, ConceptCoefficients(self.layer, self._rows))

    def _crop(self, image: int, sample: int, coefficient: float) -> Crop:
        box = self.box_of_sample[sample]
        pixels = self.images[image, :, box.top : box.bottom, box.left : box.right]
        return Crop(image, box, coefficient, pixels.clone())

    def _caption(self, importance: Importance) -> str:
        return (
            f"{len(self)} concepts of layer {self.layer}, reconstruction error {self.reconstruction_error:.0%}. "
            f"Importance: total Sobol index of {_without_addresses(importance.target)}, "
            f"mean over {len(importance.scores)} images.\n"
            "Crops: largest coefficients, one for each image. Maps: coefficients at each cell, one scale per concept."
        )


def _without_addresses(target: Any) -> str:
    """Return the repr of a target without memory addresses, so that equal figures have equal bytes."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", repr(target))
