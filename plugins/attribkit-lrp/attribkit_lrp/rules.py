"""Rules that distribute the relevance of the outputs of a layer over its inputs.

Each rule is a function of a layer and the relevance of its outputs, and returns the relevance of its inputs. With
contributions ``x w`` of an input to an output, all rules are sums of shares of the form
``x w / (sum of all x w + bias) * relevance`` with modified inputs and weights.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attribkit import InvalidInput

from .layers import Layer

LayerRule = Callable[[Layer, Tensor], Tensor]
Bound = float | tuple[float, ...]

STABILIZER = 1e-6  # added to denominators, with their sign, except where epsilon is an option


class Part(NamedTuple):
    """Modified inputs with modified weights and bias; the outputs of several parts are added."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None


def stabilized(denominator: Tensor, epsilon: float = STABILIZER) -> Tensor:
    """Return the denominator, moved away from zero by epsilon."""
    return torch.where(denominator < 0, denominator - epsilon, denominator + epsilon)


def share(layer: Layer, parts: Sequence[Part], relevance: Tensor, epsilon: float = STABILIZER) -> Tensor:
    """Distribute relevance in proportion to the contributions of the inputs to the sum of several parts."""
    leaves = [part.x.detach().requires_grad_() for part in parts]
    with torch.enable_grad():
        outputs = [layer.apply(leaf, part.weight, part.bias) for leaf, part in zip(leaves, parts, strict=True)]
    total = torch.stack([each.detach() for each in outputs]).sum(0) if len(outputs) > 1 else outputs[0].detach()
    factor = relevance / stabilized(total, epsilon)
    gradients = torch.autograd.grad(outputs, leaves, [factor] * len(outputs))
    shares = [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]
    return torch.stack(shares).sum(0) if len(shares) > 1 else shares[0]


def epsilon_rule(layer: Layer, relevance: Tensor, *, epsilon: float) -> Tensor:
    """Distribute in proportion to x w, with epsilon in the denominator (Bach et al., 2015, eq. 58)."""
    return share(layer, [Part(layer.x, layer.weight, layer.bias)], relevance, epsilon)


def alpha_beta_rule(layer: Layer, relevance: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Distribute by positive contributions times alpha minus negative ones times beta (Bach et al., 2015, eq. 60).

    Inputs may have both signs. With alpha = 1 and beta = 0 this is the z+ rule.
    """
    (x_plus, x_minus), (w_plus, w_minus) = _signs(layer.x), _signs(layer.weight)
    b_plus, b_minus = (None, None) if layer.bias is None else _signs(layer.bias)
    positive = share(layer, [Part(x_plus, w_plus, b_plus), Part(x_minus, w_minus)], relevance)
    if beta == 0:
        return alpha * positive
    negative = share(layer, [Part(x_plus, w_minus, b_minus), Part(x_minus, w_plus)], relevance)
    return alpha * positive - beta * negative


def gamma_rule(layer: Layer, relevance: Tensor, *, gamma: float) -> Tensor:
    """Distribute with contributions of the sign of the output increased by gamma.

    For inputs that are not negative and outputs that are positive, this is the rule of Montavon et al., Explainable AI
    2019, chapter 10; for other signs, its generalisation by Andeol et al., 2021.
    """
    x_plus, x_minus = _signs(layer.x)
    (w_up, w_down), bias = _amplified(layer.weight, gamma), layer.bias
    b_up, b_down = (None, None) if bias is None else _amplified(bias, gamma)
    output = layer.apply(layer.x, layer.weight, bias)
    up = share(layer, [Part(x_plus, w_up, b_up), Part(x_minus, w_down)], relevance * (output > 0))
    down = share(layer, [Part(x_plus, w_down, b_down), Part(x_minus, w_up)], relevance * (output < 0))
    return up + down


def box_rule(layer: Layer, relevance: Tensor, *, low: Bound, high: Bound) -> Tensor:
    """Distribute in proportion to x w - low w+ - high w- (z^B; Montavon et al., Pattern Recognition 2017).

    Raises:
        InvalidInput: The bounds do not fit the channels of the input, or the input exceeds them.
    """
    x, (w_plus, w_minus) = layer.x, _signs(layer.weight)
    lowest, highest = _bound(low, "low", layer), _bound(high, "high", layer)
    rounding = 1e-3 * (highest - lowest).abs()
    if bool(((x < lowest - rounding) | (x > highest + rounding)).any()):
        least, most = (float(each) for each in x.aminmax())
        raise InvalidInput(
            f"The values that the first layer receives, {least:.4g} to {most:.4g}, exceed low={low} and high={high}. "
            "Pass the values of black and white after the preprocessing of the images, one per channel: "
            "low=(0 - mean) / std, high=(1 - mean) / std."
        )
    return share(layer, [Part(x, layer.weight), Part(lowest, -w_plus), Part(highest, -w_minus)], relevance)


def flat_rule(layer: Layer, relevance: Tensor) -> Tensor:
    """Distribute equally over the inputs of each output (Lapuschkin et al., Nature Communications 2019)."""
    return share(layer, [Part(torch.ones_like(layer.x), torch.ones_like(layer.weight))], relevance)


def w_square_rule(layer: Layer, relevance: Tensor) -> Tensor:
    """Distribute in proportion to the squares of the weights (Montavon et al., Pattern Recognition 2017)."""
    return share(layer, [Part(torch.ones_like(layer.x), layer.weight.square())], relevance)


def _signs(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positive and the negative part."""
    return values.clamp(min=0), values.clamp(max=0)


def _amplified(values: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return the values with the positive, and with the negative part amplified."""
    plus, minus = _signs(values)
    return values + gamma * plus, values + gamma * minus


def _bound(bound: Bound, name: str, layer: Layer) -> Tensor:
    """Return a bound for each input, of the shape of the input."""
    x = layer.x
    if not isinstance(bound, tuple):
        return torch.full_like(x, bound)
    if layer.kind != "convolution" or len(bound) != x.shape[1]:
        raise InvalidInput(
            f"{name}={bound} has {len(bound)} values, but the first layer receives {x.shape[1]} "
            f"{'channels' if layer.kind == 'convolution' else 'features'}: pass one number for all of them"
            f"{', or one per channel' if layer.kind == 'convolution' else ''}."
        )
    return x.new_tensor(bound).reshape(1, -1, *[1] * (x.ndim - 2)).expand_as(x)
