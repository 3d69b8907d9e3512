"""Teach a CAM head its classes."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from attribkit.core.errors import AttribkitError, InvalidInput, UnsupportedModel
from attribkit.core.pictures import broadcast_to_spatial
from attribkit.core.shapes import Images
from attribkit.heads.attach import CAMModel
from attribkit.heads.body import seed_everything
from attribkit.state.randomness import preserve_random_state

Mode = Literal["fixed", "finetune"]
Batches = Iterable[Any]  # of images (b, c, *space) and classes (b,), as a DataLoader gives them

_LEARNING_RATES: dict[Mode, float] = {"fixed": 1e-3, "finetune": 1e-4}


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data came to."""

    loss: float  # mean cross-entropy of the images, each as it was when its batch had its turn
    accuracy: float  # share of them that were right then
    validation: float | None  # accuracy on the validation images after the pass; None where there are none
    seconds: float  # of the pass, without validation


@dataclass(frozen=True)
class History:
    """How a head was trained, and how well it went."""

    mode: Mode
    learning_rate: float
    seed: int
    flips: bool
    epochs: tuple[Epoch, ...]


def train_head(
    model: CAMModel,
    loader: Batches,
    mode: Mode = "fixed",
    *,
    epochs: int,
    learning_rate: float | None = None,
    seed: int = 0,
    flips: bool = True,
    validation: Batches | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train a model that `cam_head` made, in place, by Adam on the cross-entropy.

    loader: batches of images (b, c, *space), preprocessed as the body expects, and classes (b,); gone through once an
    epoch. mode: "fixed" trains the head alone, on a body in evaluation mode that stays as it is to the last bit;
    "finetune" trains all weights, but batch normalisation keeps its statistics: those of a few images undo a body whose
    normalisation was folded into its weights. learning_rate: 1e-3 (fixed) or 1e-4 (finetune) where None. seed: of
    flips, of dropout and of the loader's order; the user's random state is put back. flips: mirror each image along its
    last axis or not, by chance. validation: batches to measure the accuracy on after each epoch. device: to move the
    model to; None leaves it where it is. progress: a bar, where there is a terminal.

    The model ends in evaluation mode, with the ``requires_grad`` that it had and no gradients, also after an exception.
    """
    rate = _checked(model, loader, mode, epochs, learning_rate)
    if device is not None:
        model.to(device)
    with (
        preserve_random_state(),
        torch.inference_mode(False),
        torch.enable_grad(),
        _training(model, mode) as parameters,
    ):
        seed_everything(seed, _like(model).device)
        optimizer = torch.optim.Adam(parameters, lr=rate)
        done = []
        for number in range(1, epochs + 1):
            start = time.perf_counter()
            bar = tqdm(loader, f"{mode} {number}/{epochs}", disable=None if progress else True, leave=False)
            loss, accuracy = _one_epoch(model, bar, optimizer, mode, flips)
            seconds = time.perf_counter() - start
            if not math.isfinite(loss):
                raise AttribkitError(
                    f"The loss became {loss} in epoch {number}: lower learning_rate={rate:g}, and look at the images."
                )
            share = None if validation is None else _accuracy(model, validation)
            done.append(Epoch(loss, accuracy, share, seconds))
    return History(mode, rate, seed, flips, tuple(done))


def _one_epoch(
    model: CAMModel, loader: Batches, optimizer: torch.optim.Optimizer, mode: Mode, flips: bool
) -> tuple[float, float]:
    """One pass over the data: mean loss and share of right answers."""
    model.train()
    model.body.train(mode == "finetune")
    _keep_statistics(model)
    tally = _Tally()
    for x, labels in _batches(model, loader):
        images = _flipped(x) if flips else x
        with torch.set_grad_enabled(mode == "finetune"):
            maps = model.body(images)
        scores = model.head(maps)
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tally.add(scores.detach(), labels, loss.detach())
    return tally.means("loader")


def _keep_statistics(model: CAMModel) -> None:
    """Batch normalisation goes on with what it learnt from many more images than a small data set has."""
    for module in model.body.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def _accuracy(model: CAMModel, loader: Batches) -> float:
    """The share of images that the model gets right, in evaluation mode."""
    model.eval()
    tally = _Tally()
    for x, labels in _batches(model, loader):
        scores = model(x)
        tally.add(scores, labels, F.cross_entropy(scores, labels))
    return tally.means("validation")[1]


class _Tally:
    """Sums over batches, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.right: Tensor | float = 0.0
        self.images = 0

    def add(self, scores: Tensor, labels: Tensor, loss: Tensor) -> None:
        self.loss = self.loss + loss.double() * len(labels)
        self.right = self.right + (scores.argmax(1) == labels).sum()
        self.images += len(labels)

    def means(self, what: str) -> tuple[float, float]:
        if not self.images:
            raise InvalidInput(f"{what} gave no images: look at its dataset, and at drop_last=True.")
        return float(self.loss) / self.images, float(self.right) / self.images


def _flipped(x: Images) -> Images:
    """Each image mirrored along its last axis, or not."""
    mirrored = (
        torch.rand(len(x), dtype=torch.float32, device="cpu") < 0.5
    )  # drawn on the CPU, so that a seed means the same on every device
    return torch.where(broadcast_to_spatial(mirrored.to(x.device), x), x.flip(-1), x)


def _batches(model: CAMModel, loader: Batches) -> Iterator[tuple[Float[Tensor, "b c *space"], Int[Tensor, " b"]]]:
    """The loader's batches, checked, on the model's device and in its precision."""
    like = _like(model)
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(t, Tensor) for t in batch):
            raise InvalidInput("A batch must be two tensors, images (b, c, *space) and classes (b,).")
        x, labels = batch
        _check_batch(x, labels, model.classes)
        yield x.to(like, non_blocking=True), labels.to(like.device, torch.long, non_blocking=True)


def _check_batch(x: Tensor, labels: Tensor, classes: int) -> None:
    if not x.is_floating_point():
        raise InvalidInput(f"Images of {x.dtype} are raw pixels: convert them to floats, normalised as for the body.")
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != x.shape[:1]:
        raise InvalidInput(
            f"Classes must be integers, one for each of the {len(x)} images, got {labels.dtype} {tuple(labels.shape)}."
        )
    low, high = (int(extreme) for extreme in labels.aminmax()) if len(labels) else (0, 0)
    if low < 0 or high >= classes:  # on a GPU the loss itself would end the process
        raise InvalidInput(
            f"The loader gave the class {low if low < 0 else high}, and the model tells {classes} apart, from 0 to "
            f"{classes - 1}: number the classes so, or make the head for more."
        )


def _checked(model: Any, loader: Any, mode: Any, epochs: Any, learning_rate: Any) -> float:
    """The learning rate, once nothing is wrong with what was asked for."""
    if not isinstance(model, CAMModel):
        raise UnsupportedModel(
            f"{type(model).__name__} has no head that cam_head made: write model = cam_head(model, classes) first."
        )
    if mode not in get_args(Mode):
        raise InvalidInput(f"mode={mode!r} is no way to train; known: {', '.join(get_args(Mode))}.")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InvalidInput(f"epochs={epochs!r} is no number of passes from 1.")
    rate = _LEARNING_RATES[mode] if learning_rate is None else learning_rate
    if not rate > 0:
        raise InvalidInput(f"learning_rate={rate!r} must be above 0.")
    if isinstance(loader, Iterator):
        raise InvalidInput("The loader is an iterator, which can be gone through once: pass a DataLoader or a list.")
    if _like(model).dtype == torch.float16:
        raise InvalidInput("A model of float16 cannot be trained as it is: pass model.float(), or model.bfloat16().")
    return float(rate)


@contextmanager
def _training(model: CAMModel, mode: Mode) -> Iterator[list[nn.Parameter]]:
    """The parameters to train, which alone get gradients; evaluation mode and the old flags after."""
    trained = set((model if mode == "finetune" else model.head).parameters())
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(parameter in trained)
        yield [parameter for parameter, _ in flags if parameter in trained]
    finally:
        model.eval()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None


def _like(model: CAMModel) -> Tensor:
    return model.head.classifier.weight  # type: ignore[union-attr,return-value]
