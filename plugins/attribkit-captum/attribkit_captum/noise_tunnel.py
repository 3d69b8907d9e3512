"""Methods under noise: SmoothGrad and its variants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import captum.attr
from torch import Tensor

from attribkit import HookedModel, InvalidInput, NonNegativeFloat, PositiveInt, Seed

from .base import Call, CaptumMethod
from .calls import Trace
from .gradients import InputXGradient, IntegratedGradients, Saliency
from .rules import Deconvolution, DeepLift, GuidedBackprop

_METHODS: tuple[type[CaptumMethod], ...] = (
    Saliency, InputXGradient, IntegratedGradients, GuidedBackprop, Deconvolution, DeepLift,
)  # fmt: skip
MethodName = Literal["Saliency", "InputXGradient", "IntegratedGradients", "GuidedBackprop", "Deconvolution", "DeepLift"]


@dataclass(frozen=True)
class NoiseTunnel(CaptumMethod):
    """Another method averaged over noisy versions of the image: SmoothGrad, its square, or its variance.

    Args:
        attribution_method: The method, by the name of captum's class, or an instance of one of these classes such as
            ``IntegratedGradients(n_steps=20)``.
        nt_type: "smoothgrad" is the mean, "smoothgrad_sq" the mean of squares, "vargrad" the variance.
        nt_samples: Number of noisy images.
        stdevs: Standard deviation of the noise.
        seed: Seed of the noise.

    Reference:
        Smilkov et al., 2017, arXiv:1706.03825; Adebayo et al., NeurIPS 2018 (variance).
    """

    name: ClassVar[str] = "captum.NoiseTunnel"
    source: ClassVar[str] = "Smilkov et al., 2017, arXiv:1706.03825; Adebayo et al., NeurIPS 2018"
    check_options: ClassVar[Mapping[str, Any]] = {"nt_samples": 3, "stdevs": 0.1}
    algorithm: ClassVar[Any] = captum.attr.NoiseTunnel

    attribution_method: MethodName | CaptumMethod = "Saliency"
    nt_type: Literal["smoothgrad", "smoothgrad_sq", "vargrad"] = "smoothgrad"
    nt_samples: PositiveInt = 5
    stdevs: NonNegativeFloat = 1.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not isinstance(self.attribution_method, (str, *_METHODS)):
            names = ", ".join(each.__name__ for each in _METHODS)
            raise InvalidInput(
                f"captum.NoiseTunnel accepts {names}, got {self.attribution_method!r}: other methods draw random "
                "numbers themselves, or return maps of a layer."
            )

    @property
    def inner(self) -> CaptumMethod:
        """The method that runs on noisy images."""
        if isinstance(self.attribution_method, CaptumMethod):
            return self.attribution_method
        return next(each for each in _METHODS if each.__name__ == self.attribution_method)()

    def is_joint(self) -> bool:
        return self.inner.is_joint()

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        return self.inner.copied(model)

    def check_copy(self, call: Call, trace: Trace, score: Tensor) -> None:
        self.inner.check_copy(call, trace, score)

    def arguments(self, x: Tensor) -> dict[str, Any]:
        return self.inner.arguments(x)

    def attribute(self, call: Call) -> Tensor:
        algorithm, arguments = self.inner.made(call)
        # DeepLift pairs each image with its baseline, and mixes the rows of several pairs in its rule for max pooling
        rows = 1 if isinstance(self.inner, DeepLift) else self.most_rows(call)
        attributions: Tensor = self.algorithm(algorithm).attribute(
            call.image,
            nt_type=self.nt_type,
            nt_samples=self.nt_samples,
            nt_samples_batch_size=rows,
            stdevs=float(self.stdevs),
            **arguments,
        )
        return attributions
