"""[core/targets/functions] Which functions are the same: by their code, and by the values that they see.
[core/targets/target] What is explained: a score per image, computed from the model's outputs.
[core/targets/no_target] The target of methods that need none.
"""

import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import PerImage
from attribkit.targets.class_outputs import ClassLabels, Returned
from attribkit.targets.outputs import every_output, to_full_precision

_PLAIN = (bool, bytes, complex, float, int, str, type(None))


def key_of_function(function: Callable[..., Any]) -> Hashable:
    """Equal for functions that give the same; None where that cannot be known, as of one that sees a list.

    Counted are the code, the defaults, the closure and the global names that the code mentions.
    """
    try:
        return _key(function, ())
    except _Unknown:
        return None


class _Unknown(Exception):
    """A value that may change, or of which nothing is known."""


def _key(value: Any, outer: tuple[Any, ...]) -> Hashable:
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, tuple):
        return tuple(_key(each, outer) for each in value)
    if isinstance(value, ModuleType | BuiltinFunctionType | type):
        return value
    if isinstance(value, FunctionType) and value not in outer:
        return _of_python(value, (*outer, value))
    raise _Unknown


def _of_python(function: FunctionType, outer: tuple[Any, ...]) -> Hashable:
    code = function.__code__
    if any(isinstance(each, CodeType) for each in code.co_consts):
        raise _Unknown  # a function inside, whose names are not among these
    cells = tuple(_key(cell.cell_contents, outer) for cell in function.__closure__ or ())
    names = [name for name in code.co_names if name in function.__globals__ and not hasattr(builtins, name)]
    seen = tuple((name, _key(function.__globals__[name], outer)) for name in names)
    defaults = _key((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()), outer)
    return code, cells, seen, defaults


TargetNote = tuple[str, Tensor | None]  # what a careful reader should know, and of which images, (b,) bool; None is all


class Target(ABC):
    """A score per image, computed from a model's outputs."""

    @abstractmethod
    def __call__(self, outputs: Any) -> PerImage:
        """Score each image from what the model returned; differentiable."""

    @property
    def count(self) -> int | None:
        """How many images it speaks of; None is any number."""
        return None

    @property
    def kind(self) -> Any:
        """Equal for targets that read the same part of a model's outputs."""
        return type(self)

    @property
    def layer_key(self) -> Hashable:
        """What the choice of a layer depends on; None where that is not known, and the choice holds for one call.

        By default the target itself, if it is a frozen dataclass that is compared by its fields.
        """
        parameters = getattr(type(self), "__dataclass_params__", None)
        return self if parameters and parameters.frozen and parameters.eq else None

    @property
    def is_local(self) -> bool:
        """Whether it scores a part of the output's space, as a region of a segmentation."""
        return False

    @property
    def read_layer(self) -> str | None:
        """The layer whose output it scores, told as a `LayerOutput`; None is what the model returns."""
        return None

    @property
    def reads_classes(self) -> bool:
        """Whether it is called with a `Returned`, which `read_scores` and `read_maps` take, not with raw outputs."""
        return False

    @property
    def needs_outputs(self) -> bool:
        """Whether the outputs for the explained images decide what it means, as the predicted class."""
        return False

    def decision(self, outputs: Any) -> list[Tensor]:
        """What of the outputs decides that, an entry for each image; nothing waits for the device here."""
        return []

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        """What it means for the images of this evidence; kept for all other versions of them."""
        return self

    def subset(self, images: slice) -> "Target":
        """The same question about some of the images."""
        return self

    def tile(self, times: int) -> "Target | None":
        """The same question about the images, several times in a row; None where it cannot be put so."""
        return None

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        """The same with every label exchanged for the index of its class."""
        return self

    def bind(self, images: Tensor, embed: Callable[[Tensor, "Target"], Tensor]) -> "Target":
        """The same, once it knows the explained images, and what the model makes of images of its own.

        embed: from images, and the target that asks, to their embeddings (n, d).
        """
        return self

    def notes(self, outputs: Any) -> list[TargetNote]:
        """What a careful reader should know of how these outputs were scored."""
        return []


@dataclass(frozen=True)
class FunctionTarget(Target):
    """Any function of the model's outputs.

    function: the model's outputs to one score per image, a tensor of shape (b,).
    """

    function: Callable[[Any], Tensor]

    @property
    def kind(self) -> Any:
        return "function", self.function

    @property
    def layer_key(self) -> Hashable:
        return key_of_function(self.function)

    def __call__(self, outputs: Any) -> PerImage:
        scores = self.function(outputs)
        if not isinstance(scores, Tensor) or scores.ndim != 1:
            got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(
                f"The target {self.function!r} returned {got}; it must return one score per image, (b,)."
            )
        return scores


def outputs_for(target: Target, outputs: Any) -> Any:
    """The outputs as the target is called with them."""
    return outputs.outputs if isinstance(outputs, Returned) and not target.reads_classes else outputs


def check_class_count(target: Target, images: int) -> None:
    """Refuse a target that speaks of another number of images."""
    if target.count not in (None, images):
        raise InvalidInput(f"{target.count} targets for {images} images: give one for all of them, or one per image.")


@dataclass(frozen=True)
class NoTarget(Target):
    """No target: what a result holds whose method needs none, where none was given.

    Its score is a fixed combination of all outputs, which only shows what the outputs depend on: the layers on the way
    from the images to them, and the tokens that are read.
    """

    @property
    def kind(self) -> str:
        return "none"

    def __call__(self, outputs: Any) -> PerImage:
        tensors = every_output(outputs)
        images = min((len(each) for each in tensors), default=0)
        scores = [_combined(each) for each in tensors if len(each) == images]
        if not scores:
            raise InvalidInput(
                f"The model returned {type(outputs).__name__}, which holds no tensor of floats with a row for each "
                "image: pass target=function, which turns it into one score per image."
            )
        return torch.stack(scores).sum(0)

    def tile(self, times: int) -> "Target":
        return self


def _combined(output: Tensor) -> PerImage:
    """A sum of each image's numbers with fixed weights, which no normalisation makes constant."""
    flat = to_full_precision(output.reshape(len(output), -1))
    return flat @ torch.arange(flat.shape[1], device=flat.device, dtype=torch.float32).add(1).cos().to(flat)
