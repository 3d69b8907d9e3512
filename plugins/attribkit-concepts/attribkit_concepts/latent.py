"""Methods that run the model in the space of concepts.

`Explainer.attribute` runs them, so that the model is frozen, restored and split into batches as for any method. Their
scores have a channel for each concept or for each mask; they are not maps of evidence, and are not registered.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit import HookedModel, InvalidInput, Method, PositiveInt, Seed, Target, UnsupportedModel, track

from .nnls import solve_nnls
from .sobol import Sequence, jansen_design

Basis = tuple[tuple[float, ...], ...]  # k concepts of d channels
Change = Callable[[Tensor], Tensor]  # maps a layer's output to another of the same shape


@dataclass(frozen=True, repr=False)
class ConceptCoefficients(Method):
    """Coefficient of each concept at each cell of the layer's grid, (b, k, *grid), by non-negative least squares.

    Args:
        layer: Dotted name of the layer.
        basis: The concepts.
    """

    name = "concept_coefficients"
    source = "Fel et al., CVPR 2023"
    uses_target = False
    layer: str
    basis: Basis

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        activation = model.activation(x, self.layer)
        return encode(activation, basis_of(self), self.layer).to(activation)

    def __repr__(self) -> str:
        return f"ConceptCoefficients(layer={self.layer!r}, basis=<{len(self.basis)} concepts>)"


@dataclass(frozen=True, repr=False)
class MaskedConceptScores(Method):
    """Score of the target under masks of the concepts, (b, 1 + 1 + points, 1, ...).

    The first score is that of the unchanged activation, the second that of its reconstruction. Then follow the scores
    for the points of `jansen_design`: at each point the coefficients of a concept are multiplied by its mask at all
    cells, and the reconstruction replaces the layer's output.

    Args:
        layer: Dotted name of the layer.
        basis: The concepts.
        designs: As for `jansen_design`.
        sequence: As for `jansen_design`.
        seed: As for `jansen_design`.
    """

    name = "masked_concept_scores"
    source = "Fel et al., CVPR 2023, Section 3.3"
    layer: str
    basis: Basis
    designs: PositiveInt
    sequence: Sequence
    seed: Seed

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        points = jansen_design(len(self.basis), self.designs, self.sequence, self.seed)
        masks = torch.cat([torch.ones_like(points[:1]), points])
        images = model.one_by_one(model.resolve(target))
        rows = [self._scores_of_one(one, own, masks) for one, own in track(images, "images", len(x))]
        return torch.stack(rows).view(len(x), -1, *(1,) * (x.ndim - 2))

    def _scores_of_one(self, model: HookedModel, target: Target, masks: Tensor) -> Tensor:
        cells = model.activation(model.images, self.layer)[0, 0].numel()
        latent = LatentActivation(basis_of(self), self.layer, cells)
        changes: list[Change] = [_unchanged, *(latent.masked_by(mask) for mask in masks)]
        return model.scores_with(model.images, target, self.layer, changes)[:, 0]

    def __repr__(self) -> str:
        return (
            f"MaskedConceptScores(layer={self.layer!r}, basis=<{len(self.basis)} concepts>, designs={self.designs}, "
            f"sequence={self.sequence!r}, seed={self.seed})"
        )


class LatentActivation:
    """The output of a layer for one image as coefficients of concepts, computed once."""

    def __init__(self, basis: Tensor, layer: str, cells: int) -> None:
        self._basis, self._layer, self._cells = basis, layer, cells
        self._coefficients: Tensor | None = None

    def masked_by(self, mask: Tensor) -> "_MaskedReconstruction":
        """Return a change of the layer's output: its reconstruction with masked coefficients."""
        return _MaskedReconstruction(self, mask)

    def reconstruct(self, output: Tensor, mask: Tensor) -> Tensor:
        """Return the reconstruction of an output (rows, d, ...) with coefficients multiplied by a mask, (k,)."""
        if output[:, 0].numel() != self._cells:
            raise UnsupportedModel(
                f"The output of layer {self._layer!r} contains tokens without a position on the image, which the "
                "concepts do not reconstruct: choose a layer whose output is a map, such as one of a convolution."
            )
        if self._coefficients is None:
            self._coefficients = encode(output, self._basis, self._layer).to(output)
            self._basis = self._basis.to(output)
        masked = self._coefficients * mask.to(output).view(-1, *(1,) * (output.ndim - 2))
        return torch.einsum("bk...,kd->bd...", masked, self._basis)


@dataclass(frozen=True)
class _MaskedReconstruction:
    latent: LatentActivation
    mask: Tensor

    def __call__(self, output: Tensor) -> Tensor:
        return self.latent.reconstruct(output, self.mask)


def encode(activation: Tensor, basis: Tensor, layer: str) -> Tensor:
    """Return the coefficients of an activation, (b, d, ...), as (b, k, ...); raise InvalidInput for negative values."""
    if bool((activation < 0).any()):
        raise InvalidInput(
            f"The activation of layer {layer!r} has negative values for these images, down to "
            f"{float(activation.min()):.3g}, and concepts are non-negative: choose a layer after a ReLU."
        )
    channels_last = activation.movedim(1, -1)
    coefficients = solve_nnls(channels_last.reshape(-1, channels_last.shape[-1]), basis)
    return coefficients.unflatten(0, channels_last.shape[:-1]).movedim(-1, 1)


def basis_of(method: ConceptCoefficients | MaskedConceptScores) -> Tensor:
    """Return the concepts of a method, (k, d)."""
    return torch.tensor(method.basis, dtype=torch.float64, device="cpu")


def _unchanged(output: Tensor) -> Tensor:
    return output
