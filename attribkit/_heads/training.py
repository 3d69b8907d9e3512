"""Train a CAM head."""

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

from attribkit._core.errors import AttribkitError, InvalidInput, UnsupportedModel
from attribkit._core.pictures import broadcast_to_spatial
from attribkit._core.shapes import Images
from attribkit._display.progress import progress_shown, track
from attribkit._heads.attach import CAMModel
from attribkit._heads.body import seed_everything
from attribkit._state.randomness import preserve_random_state

Mode = Literal["fixed", "finetune"]
Batches = Iterable[Any]  # pairs of images (b, c, *space) and classes (b,), as from a DataLoader

_LEARNING_RATES: dict[Mode, float] = {"fixed": 1e-3, "finetune": 1e-4}


@dataclass(frozen=True)
class Epoch:
    """The results of one pass over the data.

    Args:
        loss: Mean cross-entropy of the images, each at its own training step.
        accuracy: Fraction of the images classified correctly at that step.
        validation: Accuracy on the validation images after the pass; None without validation.
        seconds: Duration of the pass, without validation.
    """

    loss: float
    accuracy: float
    validation: float | None
    seconds: float


@dataclass(frozen=True)
class History:
    """The settings and results of a training.

    Args:
        mode: "fixed" or "finetune".
        learning_rate: Learning rate of Adam.
        seed: Seed of flips, dropout and the loader's order.
        flips: Whether images were flipped at random.
        epochs: Results of each pass over the data.
    """

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
    show_progress: bool = True,
) -> History:
    """Train a model from `cam_head` in place, with Adam on the cross-entropy.

    The model ends in evaluation mode, with its previous ``requires_grad`` flags and without gradients, even after an
    exception. The user's random state is restored.

    Args:
        model: A model from `cam_head`.
        loader: Batches of images (b, c, *space), preprocessed as the body expects, and classes (b,); iterated once per
            epoch.
        mode: "fixed" trains only the head, on a body in evaluation mode that does not change; "finetune" trains all
            weights, but batch normalisation keeps its statistics, since those of a few images ruin a body whose
            normalisation was folded into its weights.
        epochs: Number of passes over the data.
        learning_rate: None means 1e-3 for "fixed" and 1e-4 for "finetune".
        seed: Seed of flips, dropout and the loader's order.
        flips: Whether to flip each image along its last axis at random.
        validation: Batches on which to measure the accuracy after each epoch.
        device: Device to move the model to; None leaves it where it is.
        show_progress: Whether epochs that take more than two seconds show their progress, as for `Explainer`.

    Returns:
        The settings, and the results of each epoch.

    Raises:
        InvalidInput: If an argument or a batch is invalid.
        UnsupportedModel: If the model is not from `cam_head`.
        AttribkitError: If the loss becomes infinite or NaN.
    """
    rate = _check_arguments(model, loader, mode, epochs, learning_rate)
    if device is not None:
        model.to(device)
    with (
        progress_shown(show_progress),
        preserve_random_state(),
        torch.inference_mode(False),
        torch.enable_grad(),
        _training(model, mode) as parameters,
    ):
        seed_everything(seed, _reference_tensor(model).device)
        optimizer = torch.optim.Adam(parameters, lr=rate)
        results = []
        for number in range(1, epochs + 1):
            start = time.perf_counter()
            batches = track(loader, f"batches of epoch {number}/{epochs}")
            loss, accuracy = _one_epoch(model, batches, optimizer, mode, flips)
            seconds = time.perf_counter() - start
            if not math.isfinite(loss):
                raise AttribkitError(
                    f"The loss became {loss} in epoch {number}. Lower learning_rate={rate:g}, and check the images."
                )
            validation_accuracy = None if validation is None else _accuracy(model, validation)
            results.append(Epoch(loss, accuracy, validation_accuracy, seconds))
    return History(mode, rate, seed, flips, tuple(results))


def _one_epoch(
    model: CAMModel, loader: Batches, optimizer: torch.optim.Optimizer, mode: Mode, flips: bool
) -> tuple[float, float]:
    """Train for one pass over the data; return mean loss and accuracy."""
    model.train()
    model.body.train(mode == "finetune")
    _keep_statistics(model)
    running = _RunningMeans()
    for x, labels in _batches(model, loader):
        images = _flip(x) if flips else x
        with torch.set_grad_enabled(mode == "finetune"):
            maps = model.body(images)
        scores = model.head(maps)
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running.add(scores.detach(), labels, loss.detach())
    return running.means("loader")


def _keep_statistics(model: CAMModel) -> None:
    """Keep the statistics of batch normalisation, which come from many more images than a small data set has."""
    for module in model.body.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def _accuracy(model: CAMModel, loader: Batches) -> float:
    """Measure the accuracy in evaluation mode."""
    model.eval()
    running = _RunningMeans()
    for x, labels in _batches(model, loader):
        scores = model(x)
        running.add(scores, labels, F.cross_entropy(scores, labels))
    return running.means("validation")[1]


class _RunningMeans:
    """Sums over batches, kept on the device until `means` is called."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | float = 0.0
        self.images = 0

    def add(self, scores: Tensor, labels: Tensor, loss: Tensor) -> None:
        self.loss = self.loss + loss.double() * len(labels)
        self.correct = self.correct + (scores.argmax(1) == labels).sum()
        self.images += len(labels)

    def means(self, name: str) -> tuple[float, float]:
        if not self.images:
            raise InvalidInput(
                f"{name} did not yield any images. Check its dataset and whether drop_last=True drops all batches."
            )
        return float(self.loss) / self.images, float(self.correct) / self.images


def _flip(x: Images) -> Images:
    """Flip each image along its last axis at random."""
    # Drawn on the CPU, so that a seed gives the same flips on every device.
    mirrored = torch.rand(len(x), dtype=torch.float32, device="cpu") < 0.5
    return torch.where(broadcast_to_spatial(mirrored.to(x.device), x), x.flip(-1), x)


def _batches(model: CAMModel, loader: Batches) -> Iterator[tuple[Float[Tensor, "b c *space"], Int[Tensor, " b"]]]:
    """Check the loader's batches, and move them to the model's device and precision."""
    reference = _reference_tensor(model)
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(t, Tensor) for t in batch):
            raise InvalidInput(
                "A batch must consist of two tensors, images (b, c, *space) and classes (b,), got "
                f"{type(batch).__name__}."
            )
        x, labels = batch
        _check_batch(x, labels, model.classes)
        yield x.to(reference, non_blocking=True), labels.to(reference.device, torch.long, non_blocking=True)


def _check_batch(x: Tensor, labels: Tensor, classes: int) -> None:
    if not x.is_floating_point():
        raise InvalidInput(
            f"Images must be floating point, normalised as the body expects, got raw pixels of {x.dtype}."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != x.shape[:1]:
        raise InvalidInput(
            f"Classes must be integers, one for each of the {len(x)} images, got {labels.dtype} {tuple(labels.shape)}."
        )
    low, high = (int(extreme) for extreme in labels.aminmax()) if len(labels) else (0, 0)
    if low < 0 or high >= classes:  # on a GPU, cross_entropy would abort the process
        raise InvalidInput(
            f"Classes must be from 0 to {classes - 1} for a model of {classes} classes, got "
            f"{low if low < 0 else high}. Renumber the classes, or create a head with more classes."
        )


def _check_arguments(model: Any, loader: Any, mode: Any, epochs: Any, learning_rate: Any) -> float:
    """Check the arguments, and return the learning rate."""
    if not isinstance(model, CAMModel):
        raise UnsupportedModel(
            f"model must be a CAMModel, got {type(model).__name__}: call model = cam_head(model, classes) first."
        )
    if mode not in get_args(Mode):
        raise InvalidInput(f"mode must be one of {', '.join(map(repr, get_args(Mode)))}, got {mode!r}.")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InvalidInput(f"epochs must be a positive integer, got {epochs!r}.")
    rate = _LEARNING_RATES[mode] if learning_rate is None else learning_rate
    if not rate > 0:
        raise InvalidInput(f"learning_rate must be above 0, got {rate!r}.")
    if isinstance(loader, Iterator):
        raise InvalidInput("The loader is an iterator, which can be iterated only once. Pass a DataLoader or a list.")
    if _reference_tensor(model).dtype == torch.float16:
        raise InvalidInput("A float16 model cannot be trained. Pass model.float() or model.bfloat16().")
    return float(rate)


@contextmanager
def _training(model: CAMModel, mode: Mode) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters to train, which alone require gradients; restore flags and evaluation mode at the end."""
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


def _reference_tensor(model: CAMModel) -> Tensor:
    return model.head.classifier.weight  # type: ignore[union-attr,return-value]
