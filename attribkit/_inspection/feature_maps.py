"""Read the filters and the feature maps of a layer."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from attribkit._core.errors import InvalidInput, join_names
from attribkit._core.shapes import Images, LayerMaps
from attribkit._display.representations import short_repr
from attribkit._engine.model import HookedModel


@dataclass(frozen=True, eq=False)
class Filters:
    """The kernels of a layer.

    Args:
        layer: Dotted name of the convolution.
        weights: Kernels; channels are those of the input per group.
    """

    layer: str
    weights: Float[Tensor, "out channels *kernel"]

    __repr__ = short_repr


def filters(model: nn.Module, layer: str) -> Filters:
    """Copy the kernels of a convolution, plain or transposed, or of the one inside a patch embedding.

    The weights are the stored ones, or those that a parametrization computes.

    Args:
        model: The model.
        layer: Dotted name of the layer.

    Returns:
        The kernels, (out, in / groups, *kernel).

    Raises:
        InvalidInput: If the layer does not contain exactly one convolution.
    """
    inside = {f"{layer}.{name}".strip("."): each for name, each in _convolutions(model.get_submodule(layer))}
    if len(inside) != 1:
        found = f"contains {len(inside)}: {join_names(inside)}" if inside else "does not contain a convolution"
        convolutions = join_names(name for name, _ in _convolutions(model))
        raise InvalidInput(
            f"Filters require a layer with exactly one convolution, but {layer!r} {found}. Convolutions of the model: "
            f"{convolutions}."
        )
    ((name, convolution),) = inside.items()
    weights: Tensor = convolution.weight.detach().clone()  # type: ignore[operator]
    if isinstance(convolution, _ConvTransposeNd):  # stored as (in, out / groups, *kernel)
        weights = weights.unflatten(0, (convolution.groups, -1)).transpose(1, 2).flatten(0, 1)
    return Filters(name, weights)


def _convolutions(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules with a kernel, of any class."""
    for name, each in module.named_modules():
        if hasattr(each, "kernel_size") and isinstance(getattr(each, "weight", None), Tensor):
            yield name, each


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """The activations of a layer.

    Args:
        layer: Dotted name.
        values: Activations, (b, d, *grid).
        x: Input images of the model.
        notes: The chosen layer and the reason, and ambiguities of its shape.
    """

    layer: str
    values: LayerMaps
    x: Images
    notes: tuple[str, ...] = ()

    __repr__ = short_repr


def feature_maps(model: HookedModel, x: Images, layer: str | None = None) -> FeatureMaps:
    """Compute a layer's activations on its grid, channels first, including the tokens of a transformer.

    Args:
        model: The frozen model.
        x: Images.
        layer: Dotted name; None means the layer that methods use by default.

    Returns:
        Activations, (b, d, *grid).
    """
    name = model.default_layer(x) if layer is None else layer
    return FeatureMaps(name, model.activation(x, layer), x, tuple(model.notes))
