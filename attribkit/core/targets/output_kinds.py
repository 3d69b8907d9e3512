"""Whether class scores are logits, probabilities or log-probabilities: by their values, and by their graph."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attribkit.core.graph import operation

OutputKind = Literal["logits", "probabilities", "log_probabilities"]

_VIEWS = {
    "Alias", "AsStrided", "Clone", "Expand", "Gather", "Index", "IndexSelect", "Permute", "ReshapeAlias", "Select",
    "Slice", "Split", "Squeeze", "T", "ToCopy", "Transpose", "Unbind", "UnsafeSplit", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
_AFFINE = _VIEWS | {
    "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "Add", "AvgPool2D", "AvgPool3D", "Cat", "CudnnBatchNorm", "Mean",
    "NativeBatchNorm", "Neg", "Rsub", "Stack", "Sub", "Sum", "UpsampleBilinear2D", "UpsampleNearest2D",
}  # fmt: skip
_COMBINING = _AFFINE | {
    "Amax", "Amin", "Clamp", "ClampMax", "ClampMin", "Div", "Exp", "Log", "Max", "Maximum", "Min", "Minimum", "Mul",
    "NanToNum", "Prod", "Reciprocal", "Sort", "Topk", "UpsampleTrilinear3D", "Where",
}  # fmt: skip
_WEIGHTED = {"Addmm", "Bmm", "Addbmm", "Baddbmm", "Addmv", "Convolution", "Linear", "Mm", "Mv"}
_SQUASHING = {"Hardsigmoid", "LogSigmoid", "LogSoftmax", "Sigmoid", "Softmax"}
_LOGARITHMS = {"Log", "LogSigmoid", "LogSoftmax"}


def kind_by_values(scores: Tensor) -> tuple[OutputKind, bool]:
    """What scores (b, classes, *cells) may be by their values alone, and whether the classes' probabilities sum to one.

    It is "logits" where they cannot be anything else. Rounding of their precision is allowed for.
    """
    tolerance = torch.finfo(scores.dtype).eps ** 0.5
    if not scores.numel():
        return "logits", False
    low, high = torch.stack(scores.detach().aminmax()).tolist()
    if low >= -tolerance and high <= 1 + tolerance:
        sums = scores.detach().float().sum(1)
        return "probabilities", scores.shape[1] > 1 and bool(((sums - 1).abs() <= max(tolerance, 1e-4)).all())
    if high <= tolerance:
        sums = scores.detach().float().logsumexp(1)
        return "log_probabilities", scores.shape[1] > 1 and bool((sums.abs() <= max(tolerance, 1e-4)).all())
    return "logits", False


def kind_by_graph(scores: Tensor, by_values: OutputKind, sums_to_one: bool) -> OutputKind:
    """What scores that may be probabilities are by the operations that computed them.

    They are where the classes sum to one and the last operations are not linear ones, or where every way back from them
    comes to a sigmoid, a softmax or the like before it comes to a layer with weights.
    """
    if scores.grad_fn is None:
        return by_values if sums_to_one else "logits"
    if sums_to_one:
        return "logits" if _is_affine(scores.grad_fn) else by_values
    return by_values if all(_ends(scores.grad_fn)) else "logits"


def _is_affine(start: Node) -> bool:
    """Whether the scores are put out by layers with weights, and at most averaged or added up behind them."""
    ahead, seen = [start], set()
    while ahead:
        node = ahead.pop()
        if node in seen or operation(node) in _WEIGHTED or operation(node) == "AccumulateGrad":
            continue
        seen.add(node)
        below = _below(node)
        if operation(node) not in _AFFINE and not (operation(node) in ("Mul", "Div") and len(below) == 1):
            return False
        ahead += below
    return True


def _ends(start: Node) -> Iterable[bool]:
    """For each way back from the scores, whether it comes to an operation that maps numbers to 0 to 1."""
    ahead, seen = [(start, frozenset[str]())], set()
    while ahead:
        node, passed = ahead.pop()
        if (node, passed) in seen:
            continue
        seen.add((node, passed))
        name = operation(node)
        if name in _SQUASHING or _squashes_with(name, passed):
            yield True
        elif name not in _COMBINING or _enlarges(node):
            yield False
        else:
            ahead += [(each, passed | ({name} - _VIEWS)) for each in _below(node)]


def _squashes_with(name: str, passed: frozenset[str]) -> bool:
    """Whether an operation is a sigmoid together with those behind it, as in 1 / (1 + exp(-x)) or (1 + tanh(x)) / 2."""
    if name == "Exp":
        return bool(passed & {"Div", "Reciprocal"})
    return name in ("Tanh", "Erf") and bool(passed & {"Add", "Rsub", "Sub"}) and bool(passed & {"Mul", "Div"})


def _enlarges(node: Node) -> bool:
    """Whether a node multiplies by a constant above one."""
    if operation(node) != "Mul" or len(_below(node)) != 1:
        return False
    constants = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
    return any(isinstance(each, Tensor) and bool((each.abs() > 1).any()) for each in constants)


def _below(node: Node) -> list[Node]:
    return [below for below, _ in node.next_functions if below is not None]
