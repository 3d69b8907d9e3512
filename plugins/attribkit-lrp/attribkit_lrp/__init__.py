"""Layer-wise relevance propagation for attribkit (Bach et al., PLOS ONE 2015), at the nodes of the autograd graph."""

from attribkit import Method, hookimpl

from .method import LRP

__all__ = ["LRP"]


@hookimpl
def attribkit_methods() -> list[type[Method]]:
    return [LRP]
