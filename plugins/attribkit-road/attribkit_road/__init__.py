"""Remove and debias for attribkit (Rong et al., ICML 2022): a metric, and its imputer for other metrics and methods."""

from attribkit import Imputer, Metric, hookimpl

from .noisy_linear import NoisyLinear
from .road import Road


@hookimpl
def attribkit_metrics() -> list[type[Metric]]:
    return [Road]


@hookimpl
def attribkit_imputers() -> list[type[Imputer]]:
    return [NoisyLinear]
