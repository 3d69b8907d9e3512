"""Attention weights, also of attention that is fused into one kernel and never shows them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attribkit.core.errors import UnsupportedModel

Weights = Float[Tensor, "b heads queries keys"]  # each row sums to one

_SOFTMAXES = (torch.softmax, Tensor.softmax, F.softmax)


class attention_seen(TorchFunctionMode):  # used as a context manager, like those of torch
    """Show the weights of every attention that runs, and let it go on with what is given back.

    see: called with the weights in the order of execution; the model goes on with what it returns. Attention is seen in
    ``F.scaled_dot_product_attention``, in ``nn.MultiheadAttention`` and in a softmax over the last of four axes. The
    model's outputs change by rounding alone.
    """

    def __init__(self, see: Callable[[Weights], Weights]) -> None:
        TorchFunctionMode.__init__(self)
        self.see = see

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAXES and result.ndim == 4 and _dimension(args, kwargs) in (-1, 3):
            return self.see(result)
        return result

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
        """softmax(q k / sqrt(d) + mask) v, in the open."""
        if is_causal or query.ndim != 4:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
        # In float32 at least, as fused kernels do it: weights that differ little would be equal in half precision.
        exact = torch.promote_types(query.dtype, torch.float32)
        logits = (query.to(exact) * (scale or 1 / math.sqrt(query.shape[-1]))) @ key.to(exact).transpose(-2, -1)
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
        return self.see(logits.softmax(-1)).to(value.dtype) @ value

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
        **more: Any,
    ) -> tuple[Tensor, None]:
        """Projections, `_fused`, and the projection back; query, key and value are (tokens, b, d)."""
        masks = more.get("key_padding_mask"), more.get("attn_mask"), bias_k, bias_v
        if in_proj_weight is None or add_zero_attn or query.ndim != 3 or any(each is not None for each in masks):
            raise UnsupportedModel(
                "This model's nn.MultiheadAttention has masks, added keys or projections of different widths, whose "
                "weights cannot be told apart. Use gradcam, or an attention method on another model."
            )
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        projected = [
            F.linear(each, weight, bias).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)  # (b, heads, tokens, d)
            for each, weight, bias in zip((query, key, value), in_proj_weight.chunk(3), biases, strict=True)
        ]
        joined = self._fused(*projected).permute(2, 0, 1, 3).flatten(2)
        return F.linear(joined, out_proj_weight, out_proj_bias), None


def _dimension(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("dim")


def fused_weights(
    forward: Callable[[Tensor], Any], x: Tensor, fuse: Callable[[Weights], Tensor]
) -> tuple[Any, list[Tensor]]:
    """What the model returns and what is made of the weights of each layer, without a graph."""
    fused: list[Tensor] = []

    def see(weights: Tensor) -> Tensor:
        _check_global(weights, x)
        fused.append(fuse(weights))
        return weights

    with torch.no_grad(), attention_seen(see):
        returned = forward(x)
    return returned, _found(fused)


def weights_with_graph(forward: Callable[[Tensor], Any], x: Tensor) -> tuple[Any, list[Tensor]]:
    """What the model returns and the weights of each layer, with a graph that starts at the first of them."""
    seen: list[Tensor] = []

    def see(weights: Tensor) -> Tensor:
        _check_global(weights, x)
        seen.append(weights if weights.requires_grad else weights.detach().requires_grad_())
        return seen[-1]

    with attention_seen(see):
        returned = forward(x)
    return returned, _found(seen)


def _found(weights: list[Tensor]) -> list[Tensor]:
    if not weights:
        raise UnsupportedModel(
            "No attention between tokens was seen in this model: use gradcam, or attention_gates for the gates of "
            "attention modules inside a CNN."
        )
    return weights


def _check_global(weights: Tensor, x: Tensor) -> None:
    """Refuse attention that is not between all tokens of an image."""
    if len(weights) != len(x):
        raise UnsupportedModel(
            f"The attention of this model is inside windows or groups (weights of shape {tuple(weights.shape)} for "
            f"{len(x)} images): it says nothing of the whole image. Use gradcam."
        )
