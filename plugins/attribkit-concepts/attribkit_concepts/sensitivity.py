"""The derivative of a score along a direction in the space of a layer's activations."""

from dataclasses import dataclass

from torch import Tensor

from attribkit import HookedModel, InvalidInput, Method, OneOrMore, Requirements, Target


@dataclass(frozen=True, repr=False)
class ConceptSensitivity(Method):
    """Directional derivative of the score along a concept, split over the cells of the layer's grid.

    The sum of an image's scores is the derivative of its score if the concept is added to the layer's activation.

    Args:
        vector: The direction: one number for each channel, added at every cell, or one for each channel and cell, with
            the cells of a channel in consecutive places.
        layer: Dotted name of the layer; None means the default layer of the target.

    Reference:
        Kim et al., Interpretability Beyond Feature Attribution, ICML 2018, Eq. 1.
    """

    name = "concept_sensitivity"
    source = "Kim et al., ICML 2018, Eq. 1"
    vector: OneOrMore[float]
    layer: str | None = None

    @property
    def requires(self) -> Requirements:
        return Requirements(layers=(self.layer,))

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        activation, gradient = model.activation_and_gradient(x, target, self.layer)
        return (gradient * self._direction(activation)).sum(1, keepdim=True)

    def _direction(self, activation: Tensor) -> Tensor:
        """Return the vector with the axes of the activation."""
        channels, *grid = activation.shape[1:]
        elements = activation[0].numel()
        if len(self.vector) not in (channels, elements):
            raise InvalidInput(
                f"vector must have {channels} numbers, one for each channel of the layer, or {elements}, one for each "
                f"channel and cell, got {len(self.vector)}."
            )
        vector = activation.new_tensor(self.vector)
        return vector.view(channels, *(grid if len(vector) == elements else (1,) * len(grid)))

    def __repr__(self) -> str:
        return f"ConceptSensitivity(vector=<{len(self.vector)} numbers>, layer={self.layer!r})"
