"""The score of a target as a module, for algorithms of other libraries, and copies of modules without in-place work."""

import copy
from collections.abc import Callable

from torch import Tensor, nn

from attribkit._core.errors import UnsupportedModel
from attribkit._core.shapes import Images, PerImage


class ScoringModule(nn.Module):
    """A module that maps images, (n, c, *space), to the score of a target for each image, (n,).

    It contains the model as `module`, so that hooks on the layers of the model see every call.

    Args:
        module: The model.
        score: Computes the scores, with their graph.
    """

    def __init__(self, module: nn.Module, score: Callable[[Images], PerImage]) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self._score = score

    def forward(self, images: Tensor) -> Tensor:
        return self._score(images)


def deep_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy; raises UnsupportedModel if the module cannot be copied."""
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and a copy of the model is "
            "required here: make copy.deepcopy(model) work, or choose another method or metric."
        ) from error


def without_inplace(module: nn.Module) -> nn.Module:
    """Return a deep copy whose modules do not work in place, such as ``nn.ReLU(inplace=True)``.

    Functions that work in place, such as ``F.relu_``, are not changed.

    Raises:
        UnsupportedModel: The module cannot be copied.
    """
    copied = deep_copy(module)
    for each in copied.modules():
        if getattr(each, "inplace", False) is True:
            each.inplace = False  # type: ignore[assignment]
    return copied
