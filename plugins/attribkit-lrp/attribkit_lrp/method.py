"""The method `lrp` and its composites."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from attribkit import HookedModel, InvalidInput, Method, NonNegativeFloat, OneOrMore, PositiveFloat, Target

from .propagation import Composite, relevance_of_images
from .rules import (
    LayerRule,
    alpha_beta_rule,
    box_rule,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    w_square_rule,
)


@dataclass(frozen=True)
class LRP(Method):
    """Layer-wise relevance propagation: the score, distributed backward layer by layer over the values of the image.

    Each layer passes the relevance of its outputs to its inputs in proportion to their contributions, by a rule. The
    composite chooses the rules: the epsilon rule at linear layers, and at convolutions the epsilon rule ("epsilon"),
    the z+ rule ("epsilon_plus"), the gamma rule ("epsilon_gamma_box") or the alpha-beta rule with alpha 2 and beta 1
    ("epsilon_alpha2_beta1"). Positive scores are evidence for the target.

    Args:
        composite: The rules of the layers.
        epsilon: Stabilizer of the epsilon rule; larger values remove weak and contradictory contributions.
        gamma: How much the gamma rule favours contributions of the sign of the output.
        first_layer: Rule of the layers that read the image: "box" (z^B), "flat" (equal shares), "w_square" (squared
            weights), or "same" as other layers of their kind. None means "box" for "epsilon_gamma_box", and "same" for
            the other composites.
        low: Least possible value of a preprocessed pixel, or one for each channel, for the rule "box".
        high: Greatest possible value, likewise.

    Reference:
        Bach et al., PLOS ONE 2015 (epsilon, alpha-beta); Montavon et al., Pattern Recognition 2017 (z+, z^B, w-square);
        Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019 (gamma, composites).
    """

    name: ClassVar[str] = "lrp"
    source: ClassVar[str] = "Bach et al., PLOS ONE 2015, eq. 58 and 60; Montavon et al., 2019 (composites)"

    composite: Literal["epsilon", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1"] = "epsilon_plus"
    epsilon: PositiveFloat = 1e-6
    gamma: NonNegativeFloat = 0.25
    first_layer: Literal["same", "box", "flat", "w_square"] | None = None
    low: float | OneOrMore[float] | None = None
    high: float | OneOrMore[float] | None = None

    def __post_init__(self) -> None:
        if self._first_layer == "box" and (self.low is None or self.high is None):
            raise InvalidInput(
                f"low={self.low} and high={self.high}: the rule 'box' of the first layer needs the least and the "
                "greatest value of a preprocessed pixel, (0 - mean) / std and (1 - mean) / std. With the mean and std "
                "of ImageNet: low=(-2.118, -2.036, -1.804), high=(2.249, 2.429, 2.640)."
            )

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        rules = Composite(self._convolution, partial(epsilon_rule, epsilon=self.epsilon), self._first)
        return model.differentiate(x, target, partial(relevance_of_images, rules, model.note))

    @property
    def _first_layer(self) -> str:
        return self.first_layer or ("box" if self.composite == "epsilon_gamma_box" else "same")

    @property
    def _convolution(self) -> LayerRule:
        rules: dict[str, LayerRule] = {
            "epsilon": partial(epsilon_rule, epsilon=self.epsilon),
            "epsilon_plus": partial(alpha_beta_rule, alpha=1, beta=0),
            "epsilon_gamma_box": partial(gamma_rule, gamma=self.gamma),
            "epsilon_alpha2_beta1": partial(alpha_beta_rule, alpha=2, beta=1),
        }
        return rules[self.composite]

    @property
    def _first(self) -> LayerRule | None:
        if self._first_layer == "box" and self.low is not None and self.high is not None:
            return partial(box_rule, low=self.low, high=self.high)
        rules: dict[str, LayerRule] = {"flat": flat_rule, "w_square": w_square_rule}
        return rules.get(self._first_layer)
