"""Record attention weights, including those of fused attention, and what the tensors of a forward depend on."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit._core.errors import UnsupportedModel

# Each row sums to one; the other axes are images, windows and heads.
AttentionWeights = Float[Tensor, "... queries keys"]

_SOFTMAXES = (torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax)
_CLOSED_KERNELS = re.compile("scaled_dot_product|multi_?head_attention|encoder_layer_fwd|flash_att|efficient_att")
_PRODUCTS = {"matmul", "__matmul__", "bmm", "einsum", "baddbmm"}
_PRESERVING = {  # functions that keep the weights as they are
    "dropout", "dropout_", "to", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "view",
    "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "swapaxes", "expand",
    "requires_grad_", "detach",
}  # fmt: skip
_MIN_AXES = 3  # least axes of a softmax that can be attention; class scores have two
UNKNOWN, IMAGES, PADDING, PRODUCT = 1, 2, 4, 8  # bits of a tensor's sources; `add_mark` adds further bits
_FIRST_MARK = 16

untracked = torch._C.DisableTorchFunction  # a context manager that disables all torch function modes

_TO_PYTHON = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "__complex__", "__dlpack__"}
_CONVOLUTIONS = ("conv", "_convolution")


class record_attention(TorchFunctionMode):  # used as a context manager, like those of torch
    """Context manager that passes the weights of every attention to a function, and continues with its result.

    The outputs of the model change by rounding only. Dropout of a fused call is applied after recording. A kernel that
    does not expose its weights raises UnsupportedModel.

    Args:
        record: Called in the order of execution with the weights, and with whether they are certainly those of an
            attention: those of ``F.scaled_dot_product_attention`` and ``nn.MultiheadAttention`` are, a softmax over one
            of three axes or more may not be. Returns the weights to continue with.
    """

    def __init__(self, record: Callable[[AttentionWeights, bool], AttentionWeights]) -> None:
        TorchFunctionMode.__init__(self)
        self.record = record

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        if _CLOSED_KERNELS.search(str(getattr(func, "__name__", func))):
            raise _not_recordable(f"calls the fused kernel {func}")
        result = func(*args, **kwargs)
        dimension = _dimension(args, kwargs) if func in _SOFTMAXES else None
        if dimension is None or result.ndim < _MIN_AXES:
            return result
        return self.record(result.movedim(dimension, -1), False).movedim(-1, dimension)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute softmax(q k / sqrt(d) + mask) v without a fused kernel."""
        if any(each.is_nested for each in (query, key, value)):
            raise _not_recordable("computes attention over nested tensors")
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        return _apply_weights(self._weights(query, key, attn_mask, scale), value, dropout_p)

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
        """Compute softmax(q k / sqrt(d) + mask), and record it."""
        # At least float32, as in fused kernels: similar weights would be equal in half precision.
        exact = torch.promote_types(query.dtype, torch.float32)
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        with torch.autocast(query.device.type, enabled=False):
            logits = (query.to(exact) * factor) @ key.to(exact).transpose(-2, -1)
        if mask is None:
            return self.record(logits.softmax(-1), True)
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
        is_masked = logits.isneginf().all(-1, keepdim=True)  # a query whose keys are all masked returns zeros
        return self.record(logits.softmax(-1).masked_fill(is_masked, 0), True)

    def _multi_head(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        training: bool = True,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False,
        q_proj_weight: Tensor | None = None,
        k_proj_weight: Tensor | None = None,
        v_proj_weight: Tensor | None = None,
        static_k: Tensor | None = None,
        static_v: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # a hint that the mask is causal
    ) -> tuple[Tensor, Tensor | None]:
        """Project, attend, and project back; query, key and value are (tokens, b, d) or (tokens, d)."""
        if static_k is not None or static_v is not None:
            raise _not_recordable(
                "calls F.multi_head_attention_forward with projected keys or values (static_k, static_v)"
            )
        unbatched = query.ndim == 2  # tokens and channels
        separate_weights = (
            q_proj_weight,
            k_proj_weight,
            v_proj_weight,
        )  # for queries, keys and values of different widths
        keywords = [each.unsqueeze(1) if unbatched else each for each in (query, key, value)]
        q, k, v = _project(
            keywords, separate_weights if in_proj_weight is None else in_proj_weight.chunk(3), in_proj_bias
        )
        if bias_k is not None and bias_v is not None:
            k, v = (torch.cat([each, one.expand(1, *each.shape[1:])]) for each, one in ((k, bias_k), (v, bias_v)))
        if add_zero_attn:
            k, v = (F.pad(each, (0, 0, 0, 0, 0, 1)) for each in (k, v))
        extra_keys = len(k) - len(key)
        mask = _join_masks(attn_mask, key_padding_mask, num_heads, q.dtype)
        mask = None if mask is None else F.pad(mask, (0, extra_keys))
        q, k, v = (each.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for each in (q, k, v))  # (b, heads, n, d)
        weights = self._weights(q, k, mask)
        gathered = _apply_weights(weights, v, dropout_p if training else 0.0).permute(2, 0, 1, 3).flatten(2)
        result = F.linear(gathered, out_proj_weight, out_proj_bias)
        returned_weights = weights.mean(1) if average_attn_weights else weights
        if unbatched:
            result, returned_weights = result.squeeze(1), returned_weights.squeeze(0)
        return result, returned_weights if need_weights else None


class record_gathering(TorchFunctionMode):  # used as a context manager, like those of torch
    """Context manager that records which attention weights are multiplied with values unchanged.

    Talking heads, for instance, mix the heads after the softmax. Enter this context before `record_attention`.
    """

    def __init__(self) -> None:
        TorchFunctionMode.__init__(self)
        self.gathering: set[int] = set()  # numbers of the weights that were multiplied with values
        self._numbers = WeakTensorKeyDictionary()

    def watch(self, weights: Tensor, number: int) -> None:
        """Follow these weights from now on."""
        self._numbers[weights] = number

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        numbers = [n for each in args if isinstance(each, Tensor) and (n := self._numbers.get(each)) is not None]
        outputs = func(*args, **(kwargs or {}))
        if numbers and name in _PRODUCTS:
            self.gathering.update(numbers)
        elif numbers and name in _PRESERVING and isinstance(outputs, Tensor):
            self._numbers[outputs] = numbers[0]
        elif numbers and outputs is args[0]:
            del self._numbers[outputs]  # overwritten in place
        return outputs


def _project(tensors: Sequence[Tensor], matrices: Sequence[Tensor | None], bias: Tensor | None) -> Iterator[Tensor]:
    """Yield queries, keys and values, each projected by its matrix and its third of the bias."""
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    for tensor, matrix, part in zip(tensors, matrices, biases, strict=True):
        yield F.linear(tensor, matrix, part)  # type: ignore[arg-type]  # torch checks that it is not None


def _apply_weights(weights: Tensor, value: Tensor, dropout_p: float) -> Tensor:
    weights = weights.to(value.dtype)
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def _join_masks(mask: Tensor | None, padding: Tensor | None, heads: int, dtype: torch.dtype) -> Tensor | None:
    """Join the masks of nn.MultiheadAttention to one that is added to the logits (b, heads, queries, keys).

    True in boolean masks is masked. mask: (queries, keys) or (b * heads, queries, keys); padding: (b, keys), or (keys,)
    without a batch.
    """
    mask, padding = (each if each is None else _additive_mask(each, dtype) for each in (mask, padding))
    if mask is not None and mask.ndim > 2:
        mask = mask.unflatten(0, (-1, heads))
    if padding is None:
        return mask
    padding = padding.view(-1, 1, 1, padding.shape[-1])
    return padding if mask is None else mask + padding


def _additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def _dimension(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Return the axis of a softmax; None if it is not an integer."""
    dimension = args[1] if len(args) > 1 else kwargs.get("dim")
    return dimension if isinstance(dimension, int) else None


def _not_recordable(what: str) -> UnsupportedModel:
    return UnsupportedModel(f"This model {what}, so its attention weights cannot be recorded. Use gradcam.")


class track_sources(TorchFunctionMode):  # used as a context manager, like those of torch
    """Context manager that tracks the sources of each tensor of a forward, as the bits of an integer.

    Parameters, buffers and inputs other than the images do not have a source. A tensor that no tracked function
    computed, such as the output of a scripted function, has the source UNKNOWN. So do all later tensors once Python
    reads a number that depends on the images.

    Args:
        module: The model.
        x: The images.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        TorchFunctionMode.__init__(self)
        self.parameters_used: set[int] = set()  # ids of the parameters that were an argument of a function
        self._sources = WeakTensorKeyDictionary()
        self._parameters = {id(each) for each in module.parameters()}
        self._next = _FIRST_MARK
        self._left_torch = 0
        self.is_finished = False  # whether the module has returned
        for each in module.modules():
            for tensor in _tensors(vars(each)):
                self._sources[tensor] = 0
        self._sources[x] = IMAGES
        self._module = module

    @contextmanager
    def inputs_as_constants(self) -> Iterator[None]:
        """Treat the tensors that the module is called with as constants if they do not depend on the images.

        Numbers that Python reads after the module has returned, as in a target, do not count.
        """

        def end(*_: Any) -> None:
            self.is_finished = True

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
        """Return the sources of a tensor, or of all tensors in a structure together."""
        sources = 0
        with untracked():
            for tensor in _tensors(values):
                sources |= self._sources.get(tensor, UNKNOWN)
                base = tensor._base  # a write into the base changes its views
                if base is not None:
                    sources |= self._sources.get(base, 0)
        return sources

    def add_mark(self, tensor: Tensor, sources: int) -> int:
        """Add a new source to a tensor and all that is computed from it from now on; return its bit."""
        mark, self._next = self._next, self._next << 1
        self._sources[tensor] = sources | mark
        return mark

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        self.parameters_used.update(id(each) for each in _tensors((args, keywords)) if id(each) in self._parameters)
        outputs = function(*args, **keywords)
        sources = self.of((args, keywords)) | self._left_torch
        name = getattr(function, "__name__", "")
        if name in _TO_PYTHON and sources & (IMAGES | UNKNOWN) and not self.is_finished:
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
            if base is not None and any(tensor is each for each in (*args, *keywords.values())):  # written in place
                self._sources[base] = sources | self._sources.get(base, 0)
        return outputs

    def _is_parameter(self, tensor: Tensor) -> bool:
        return id(tensor) in self._parameters or id(tensor._base) in self._parameters


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield every tensor in a structure of tuples, lists and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for each in values.values():
            yield from _tensors(each)
    elif isinstance(values, tuple | list):
        for each in values:
            yield from _tensors(each)
