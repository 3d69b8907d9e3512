"""[inspection/filters] The kernels that a layer has learned.
[inspection/feature_maps] What a layer puts out for an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from attribkit.core.errors import InvalidInput, join_names
from attribkit.core.shapes import Images, LayerMaps
from attribkit.engine.model import HookedModel


@dataclass(frozen=True, eq=False)
class Filters:
    """A layer's kernels."""

    layer: str  # dotted name of the convolution
    weights: Float[Tensor, "out channels *kernel"]  # channels: those of the input that a filter sees, in / groups


def filters(model: nn.Module, layer: str) -> Filters:
    """A copy of the kernels of a convolution, plain or transposed, or of the one that a patch embedding holds.

    layer: a dotted name. The weights are those that are stored, or that a parametrization makes of them. Raises
    InvalidInput for a layer with no convolution, or several.
    """
    inside = {f"{layer}.{name}".strip("."): each for name, each in _convolutions(model.get_submodule(layer))}
    if len(inside) != 1:
        found = f"holds {len(inside)} of them: {join_names(inside)}" if inside else "has none"
        known = join_names(name for name, _ in _convolutions(model))
        raise InvalidInput(f"Filters are those of one convolution, and {layer!r} {found}. Convolutions: {known}.")
    ((name, convolution),) = inside.items()
    weights: Tensor = convolution.weight.detach().clone()  # type: ignore[operator]
    if isinstance(convolution, _ConvTransposeNd):  # stored as (in, out / groups, *kernel)
        weights = weights.unflatten(0, (convolution.groups, -1)).transpose(1, 2).flatten(0, 1)
    return Filters(name, weights)


def _convolutions(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules with a kernel, of whatever class."""
    for name, each in module.named_modules():
        if hasattr(each, "kernel_size") and isinstance(getattr(each, "weight", None), Tensor):
            yield name, each


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """A layer's activations."""

    layer: str  # dotted name
    values: LayerMaps
    x: Images  # what the model saw
    notes: tuple[str, ...] = ()  # the layer chosen and why; what its shape leaves open


def feature_maps(model: HookedModel, x: Images, layer: str | None = None) -> FeatureMaps:
    """A layer's activations on its grid, channels first, (b, d, *grid); the tokens of a transformer too.

    model: frozen, and about to explain x. layer: a dotted name; None is the layer that methods read.
    """
    name = model.default_layer(x) if layer is None else layer
    return FeatureMaps(name, model.activation(x, layer), x, tuple(model.notes))
