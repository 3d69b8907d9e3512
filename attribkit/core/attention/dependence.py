"""What the tensors of a forward depend on: the images, padding, and the attentions that ran."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

UNKNOWN, IMAGES, PADDING, PRODUCT = 1, 2, 4, 8  # bits of a tensor's sources; a source that is marked has its own
_FIRST_MARK = 16

untracked = torch._C.DisableTorchFunction  # a context manager: what runs under it, no mode sees

_TO_PYTHON = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "__complex__", "__dlpack__"}
_PRODUCTS = {"matmul", "__matmul__", "bmm", "einsum", "baddbmm"}
_CONVOLUTIONS = ("conv", "_convolution")


class sources_tracked(TorchFunctionMode):  # used as a context manager, like those of torch
    """Track which sources each tensor of a forward was computed from, as the bits of an integer.

    Parameters, buffers and inputs other than the images have no source. A tensor that no tracked function computed, as
    the output of a scripted function, has the source UNKNOWN; so has all that follows once a number that depends on the
    images has left torch. x: the images.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        TorchFunctionMode.__init__(self)
        self.parameters_used: set[int] = set()  # ids of the parameters that were an argument of a function
        self._sources = WeakTensorKeyDictionary()
        self._parameters = {id(each) for each in module.parameters()}
        self._next = _FIRST_MARK
        self._left_torch = 0
        self.is_over = False  # whether the module returned
        for each in module.modules():
            for tensor in _tensors(vars(each)):
                self._sources[tensor] = 0
        self._sources[x] = IMAGES
        self._module = module

    @contextmanager
    def inputs_known(self) -> Iterator[None]:
        """Take the tensors that the module is called with for inputs, where they do not come from the images.

        Numbers that leave torch once the module has returned, as those by which a target reads its outputs, do not
        count.
        """

        def end(*_: Any) -> None:
            self.is_over = True

        def register(_module: nn.Module, args: Any, kwargs: Any) -> None:
            for tensor in _tensors((args, kwargs)):
                if not self.of(tensor) & IMAGES:
                    self._sources[tensor] = 0

        hooks = (
            self._module.register_forward_pre_hook(register, with_kwargs=True),
            self._module.register_forward_hook(end),
        )
        with hooks[0], hooks[1]:
            yield

    def of(self, values: Any) -> int:
        """The sources of a tensor, or of all tensors in a structure, together."""
        sources = 0
        with untracked():
            for tensor in _tensors(values):
                sources |= self._sources.get(tensor, UNKNOWN)
                base = tensor._base  # what is written into a base, its views have too
                if base is not None:
                    sources |= self._sources.get(base, 0)
        return sources

    def marked(self, tensor: Tensor, sources: int) -> int:
        """The bit of a new source, which all that is computed from the tensor has from now on, beside these."""
        mark, self._next = self._next, self._next << 1
        self._sources[tensor] = sources | mark
        return mark

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        self.parameters_used.update(id(each) for each in _tensors((args, given)) if id(each) in self._parameters)
        outputs = function(*args, **given)
        sources = self.of((args, given)) | self._left_torch
        name = getattr(function, "__name__", "")
        if name in _TO_PYTHON and sources & (IMAGES | UNKNOWN) and not self.is_over:
            self._left_torch = UNKNOWN
        if name == "pad":
            sources |= PADDING
        elif name.startswith(_CONVOLUTIONS):
            sources &= ~(PADDING | PRODUCT)
        elif name == "linear":
            sources &= ~PRODUCT
        elif name in _PRODUCTS and not any(self._is_parameter(each) for each in _tensors(args)):
            sources |= PRODUCT
        written = args[0] if outputs is None and args else outputs
        for tensor in _tensors(written):
            self._sources[tensor] = sources | self._sources.get(tensor, 0)
            base = tensor._base
            if base is not None and any(tensor is each for each in (*args, *given.values())):  # written in place
                self._sources[base] = sources | self._sources.get(base, 0)
        return outputs

    def _is_parameter(self, tensor: Tensor) -> bool:
        return id(tensor) in self._parameters or id(tensor._base) in self._parameters


def _tensors(values: Any) -> Iterator[Tensor]:
    """Every tensor in a structure of tuples, lists and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for each in values.values():
            yield from _tensors(each)
    elif isinstance(values, tuple | list):
        for each in values:
            yield from _tensors(each)
