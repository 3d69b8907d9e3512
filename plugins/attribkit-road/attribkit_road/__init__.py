"""Remove and debias for attribkit (Rong et al., ICML 2022): the metric, and its imputer for other metrics."""

from attribkit import hookimpl

from .noisy_linear import NoisyLinear
from .road import Road


@hookimpl
def attribkit_metrics():
    return [Road]


@hookimpl
def attribkit_imputers():
    return [NoisyLinear]
