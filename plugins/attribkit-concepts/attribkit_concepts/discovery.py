"""Discovery of concepts by non-negative factorisation of a layer's activations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from attribkit import Explainer, InvalidInput, track

from .arguments import check_choice, check_fraction, check_image_batch, check_integer
from .concepts import Concepts
from .crops import Box, boxes_around_cells, enlarge, lattice
from .factorisation import factorise
from .latent import ConceptCoefficients

Samples = Literal["crops", "positions"]

_NAMED = 6  # number of layers that a refusal names, the last ones of the model
_PROBED = 2  # images for which their activations are read


class _Activations(NamedTuple):
    """Activations of the samples, (samples, d), float64, with the image of each sample."""

    values: Tensor
    image_of_sample: Tensor
    notes: tuple[str, ...]


def find_concepts(
    explainer: Explainer,
    images: Tensor,
    k: int,
    layer: str | nn.Module | None = None,
    target: Any = None,
    seed: int = 0,
    *,
    samples: Samples = "crops",
    crop: float = 2 / 7,
    iterations: int = 1000,
) -> Concepts:
    """Find concepts: non-negative directions whose non-negative combinations approximate a layer's activations.

    Args:
        explainer: The explainer of the model.
        images: Images of one class or theme, (b, c, h, w), preprocessed as the model expects.
        k: Number of concepts.
        layer: Dotted name of the layer, or the module; None means the default layer of the target. Its activations must
            not be negative, as after a ReLU.
        target: The target that determines the default layer, and the default target of `Concepts.importance`; None
            means the predicted class of each image.
        seed: Seed of the factorisation.
        samples: "crops" factorises the mean activations of overlapping crops, each resized to the size of the images,
            as in CRAFT; "positions" factorises the activations at the cells of the grid of the whole images.
        crop: Sides of a crop, as a fraction of those of the images; for "positions", of the crops that are displayed.
        iterations: Maximum number of iterations of the factorisation.

    Returns:
        The concepts, which are targets, with their coefficients, crops, importance and figure.

    Raises:
        InvalidInput: If an argument is not valid, or the layer has negative activations.
        UnknownName: If the layer does not exist.

    Reference:
        Fel et al., CRAFT: Concept Recursive Activation FacTorization for Explainability, CVPR 2023.
    """
    check_image_batch("images", images)
    check_integer("k", k)
    check_integer("seed", seed, 0)
    check_integer("iterations", iterations)
    check_choice("samples", samples, ("crops", "positions"))
    check_fraction("crop", crop)
    _check_axes(explainer)
    chosen = _default_layer(explainer, images, target) if layer is None else layer
    name = explainer.feature_maps(images[:1], chosen).layer
    sample = _sample_crops if samples == "crops" else _sample_positions
    activations = sample(explainer, images, name, crop)
    _check_activations(explainer, images, name, activations.values, k)
    factors = factorise(activations.values, k, seed, iterations)
    found = Concepts(
        explainer,
        name,
        factors.basis,
        factors.coefficients,
        factors.error,
        images.detach().clone(),
        activations.image_of_sample,
        (),
        target,
        (*activations.notes, *factors.notes),
    )
    return _with_boxes(found, samples, crop)


def _check_axes(explainer: Explainer) -> None:
    axes = explainer.model.spec.axes
    if axes not in (None, "bchw"):
        raise InvalidInput(
            f"Concepts are found in images of axes (b, c, h, w), but the model's images have the axes {axes!r}: wrap "
            "the model in a module that takes images (b, c, h, w)."
        )


def _default_layer(explainer: Explainer, images: Tensor, target: Any) -> str:
    """Return the one default layer of the methods."""
    chosen = [layer.name for layer in explainer.layers(images, target) if layer.chosen]
    if len(chosen) != 1:
        raise InvalidInput(
            f"The model has {len(chosen)} default layers for this target ({', '.join(chosen) or 'none'}), and concepts "
            "are found in one: choose it with layer=..."
        )
    return chosen[0]


def _sample_crops(explainer: Explainer, images: Tensor, layer: str, crop: float) -> _Activations:
    """Return the mean activation of each crop of each image."""
    boxes = lattice(tuple(images.shape[2:]), crop)
    values, notes = [], dict[str, None]()
    for i in track(range(len(images)), "images"):
        maps = explainer.feature_maps(enlarge(images[i : i + 1], boxes), layer)
        values.append(_non_negative_mean(maps.values))
        notes |= dict.fromkeys(maps.notes)
    image_of_sample = torch.arange(len(images), device="cpu").repeat_interleave(len(boxes))
    return _Activations(torch.cat(values), image_of_sample, tuple(notes))


def _non_negative_mean(maps: Tensor) -> Tensor:
    """Return the mean over the grid, or the minimum for channels with negative values, so that a check finds them."""
    flat = maps.detach().flatten(2).cpu().double()
    lowest = flat.amin(2)
    return torch.where(lowest < 0, lowest, flat.mean(2))


def _sample_positions(explainer: Explainer, images: Tensor, layer: str, _crop: float) -> _Activations:
    """Return the activation at each cell of the grid of each image."""
    maps = explainer.feature_maps(images, layer)
    values = maps.values.detach().flatten(2).mT.cpu().double()
    image_of_sample = torch.arange(len(images), device="cpu").repeat_interleave(values.shape[1])
    return _Activations(values.flatten(0, 1), image_of_sample, tuple(maps.notes))


def _check_activations(explainer: Explainer, images: Tensor, layer: str, values: Tensor, k: int) -> None:
    """Raise InvalidInput unless the activations can be factorised into k concepts."""
    if not bool(values.isfinite().all()):
        raise InvalidInput(f"The activations of layer {layer!r} are not finite: check the images and the model.")
    if bool((values < 0).any()):
        named = _non_negative_layers(explainer, images)
        advice = f"choose one of {', '.join(map(repr, named))}" if named else "none of the layers of this model fits"
        raise InvalidInput(
            f"The activations of layer {layer!r} are negative, down to {float(values.min()):.3g}, and a non-negative "
            f"factorisation needs a layer after a ReLU: {advice}."
        )
    if not bool(values.any()):
        raise InvalidInput(
            f"The activations of layer {layer!r} are all zero: check the images, or choose another layer."
        )
    if k > min(values.shape):
        raise InvalidInput(
            f"k must be at most {min(values.shape)}, since layer {layer!r} has {values.shape[1]} channels and there "
            f"are {len(values)} samples, got {k}: choose a smaller k, or pass more images."
        )


def _non_negative_layers(explainer: Explainer, images: Tensor) -> list[str]:
    """Return the names of the last layers without negative values for the first images."""
    names: list[str] = []
    for layer in reversed(explainer.layers(images)):
        if len(names) < _NAMED and bool((explainer.feature_maps(images[:_PROBED], layer.name).values >= 0).all()):
            names.append(layer.name)
    return names[::-1]


def _with_boxes(concepts: Concepts, samples: Samples, crop: float) -> Concepts:
    """Return the concepts with the part of the image that each sample stands for."""
    space = tuple(concepts.images.shape[2:])
    boxes: Sequence[Box]
    if samples == "crops":
        boxes = lattice(space, crop)
    else:
        method = ConceptCoefficients(concepts.layer, tuple(map(tuple, concepts.basis.tolist())))
        attribution = concepts.explainer.attribute(concepts.images, method)
        boxes = boxes_around_cells(attribution.scores.shape[2:], attribution.extent, space, crop)
    return replace(concepts, box_of_sample=tuple(boxes) * len(concepts.images))
