"""Whether the way through a forward depends on the values of its inputs, and which tensors the inputs reach."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit.core.nested import tensors_in

_READ = {  # functions that give a tensor's values to Python, which may branch on them
    "__array__", "__bool__", "__complex__", "__float__", "__index__", "__int__", "allclose", "cond", "equal",
    "is_nonzero", "item", "numpy", "tolist",
}  # fmt: skip
_INDEXED = {  # functions that move elements by an index or a mask
    "__getitem__", "__setitem__", "gather", "index_add", "index_copy", "index_fill", "index_put", "index_select",
    "masked_scatter", "masked_select", "scatter", "scatter_add", "scatter_reduce", "take", "take_along_dim",
}  # fmt: skip
_BY_VALUE = {  # functions that order or place elements by their values
    "grid_sample", "grid_sampler", "kthvalue", "msort", "nonzero", "sort", "topk", "unique", "unique_consecutive",
}  # fmt: skip


class dependence_watched(TorchFunctionMode):  # used as a context manager, like those of torch
    """Watch one forward for what its inputs decide beside the numbers.

    image: the image from which the forward starts, which requires a gradient; others: tensors that go with it. After
    it, `branches` names a function by which Python read values that depend on them, so that another image may take
    another way; `arranges` one that moved elements by such values, so that the same cell of a layer may lie elsewhere
    for another image. Both are None where there is none.
    """

    def __init__(self, image: Tensor, others: Iterable[Tensor] = ()) -> None:
        TorchFunctionMode.__init__(self)
        self.branches: str | None = None
        self.arranges: str | None = None
        self._from_image = WeakTensorKeyDictionary()  # whether a tensor that depends on any source is from the image
        self._from_image[image] = True
        for other in others:
            self._from_image[other] = False

    def reaches(self, tensor: Tensor) -> bool:
        """Whether the tensor depends on the image."""
        return tensor.requires_grad or self._from_image.get(tensor, False)

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        reached = [each for each in tensors_in((args, given)) if each.requires_grad or each in self._from_image]
        outputs = function(*args, **given)
        if reached:
            name = getattr(function, "__name__", "")
            plain = name if name.endswith("__") else name.removesuffix("_")
            fixed = plain.startswith("grid_sample") and all(
                each is not (args[1] if len(args) > 1 else given["grid"]) for each in reached
            )
            self._watch("" if fixed else plain, function, args, reached)
            image = any(map(self.reaches, reached))
            for each in (*tensors_in(outputs), *(args[:1] if name == "__setitem__" else ())):
                self._from_image[each] = image or self.reaches(each)
        return outputs

    def _watch(self, name: str, function: Any, args: tuple[Any, ...], reached: Sequence[Tensor]) -> None:
        if name in _READ:
            self.branches = self.branches or resolve_name(function) or name
        nonzero = name == "where" and len(args) == 1
        indexed = name in _INDEXED and any(not each.is_floating_point() for each in reached)
        if nonzero or indexed or name in _BY_VALUE:
            self.arranges = self.arranges or resolve_name(function) or name
