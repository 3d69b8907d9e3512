"""Measure the cost of deletion and insertion in the bare forwards that they need, for attribkit and installed peers.

    python benchmarks/speed_metrics.py                        # ResNet-50: 5 maps of 8 images, 28 steps
    python benchmarks/speed_metrics.py --maps 1 --rounds 5
    python benchmarks/speed_metrics.py --device cuda

attribkit: deletion with zeros and insertion with the blurred image for all maps, 2M(n - 1) + 3 forwards of each image
for M maps and n steps. Bare: the same number of plain forwards of contiguous images, in packs of the fastest size. With
the peers: the same images, one map and few steps, with zeros; Quantus has only deletion and removes a channel in each
step. Each time is divided by that of the forwards that the same points need, in the same round; the result is the
median over the rounds.
"""

import argparse
import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import timm
import torch
from environment import save

from attribkit import Attribution, ClassLogit, Explainer
from attribkit.methods import GradCAM
from attribkit.metrics import Deletion, Insertion

PACKS = (8, 16, 32, 64)  # batch sizes to try for the bare forwards
Work = Callable[[], object]
PEERS = {name: name for name in ("torchcam", "quantus") if importlib.util.find_spec(name)}


class Subject:
    """A model, images and maps."""

    def __init__(self, name: str, images: int, maps: int, device: str) -> None:
        torch.manual_seed(0)
        model: Any = timm.create_model(name).eval().requires_grad_(False).to(device)
        self.model: torch.nn.Module = model
        self.x = torch.randn(images, *model.pretrained_cfg["input_size"], device=device)
        self.explainer = Explainer(self.model)
        self.attributions = [
            Attribution(torch.randn(images, 1, 7, 7, device=device), self.x, ClassLogit((1,) * images), GradCAM())
            for _ in range(maps)
        ]
        self.pack = min(PACKS, key=lambda pack: seconds(lambda: self.forwards(pack, pack), device, times=3) / pack)

    def forwards(self, images: int, pack: int) -> None:
        """Run plain forwards of a number of images."""
        many = self.x[:1].expand(pack, -1, -1, -1).contiguous()
        with torch.inference_mode():
            for start in range(0, images, pack):
                self.model(many[: images - start])


def seconds(work: Work, device: str, times: int = 1) -> float:
    """Return the median time of the work."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def full(subject: Subject, steps: int) -> tuple[Work, int]:
    """Return the measurement of all maps by both metrics, and the number of forwards that it needs."""
    maps, images = len(subject.attributions), len(subject.x)

    def work() -> None:
        subject.explainer.measure(subject.attributions, [Deletion(steps=steps), Insertion(steps=steps)])

    return work, images * (2 * maps * (steps - 1) + 3)


class Nothing(torch.nn.Module):
    """A model without computation."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(1, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def without_model(subject: Subject, steps: int) -> Work:
    """Return the work of `full` without the forwards: ranks, masks, packing, scores."""
    explainer = Explainer(Nothing().to(subject.x.device))
    return lambda: explainer.measure(subject.attributions, [Deletion(steps=steps), Insertion(steps=steps)])


def ours(subject: Subject, steps: int) -> tuple[Work, int]:
    """Return the measurement of one map by both metrics, with zeros."""

    def work() -> None:
        metrics = [metric(steps=steps, substrate="zero") for metric in (Deletion, Insertion)]
        subject.explainer.measure(subject.attributions[:1], metrics)

    return work, len(subject.x) * 2 * steps


def torchcam(subject: Subject, steps: int) -> tuple[Work, int]:
    """Return the same measurement by torch-cam, which receives the map."""
    from torchcam.metrics import DeletionInsertionMetric

    class Extractor:
        model = subject.model

        def __call__(self, _classes: object, _scores: object) -> list[torch.Tensor]:
            return [subject.attributions[0].heatmap()]

        def fuse_cams(self, maps: list[torch.Tensor]) -> torch.Tensor:
            return maps[0]

        def _hooks_off(self) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

    softmax = torch.nn.Softmax(-1)

    def work() -> None:
        metric = DeletionInsertionMetric(cast(Any, Extractor()), softmax, steps=steps, batch_size=subject.pack)
        metric.update(subject.x, class_idx=1)

    return work, len(subject.x) * 2 * steps


def quantus(subject: Subject, _steps: int) -> tuple[Work, int]:
    """Return deletion by Quantus, one channel of all pixels in each step, since its steps must divide that number."""
    from quantus import PixelFlipping

    heatmaps = subject.attributions[0].heatmap()[:, None].cpu().numpy()
    images, labels = subject.x.cpu().numpy(), np.full(len(subject.x), 1)
    metric = PixelFlipping(features_in_step=images[0, 0].size, normalise=False, disable_warnings=True)
    device = str(subject.x.device)

    def work() -> None:
        metric(subject.model, images, labels, a_batch=heatmaps, device=device)

    return work, len(images) * images.shape[1]


def ratios(subject: Subject, candidates: dict[str, tuple[Work, int]], rounds: int, device: str) -> dict[str, float]:
    """Return the median over the rounds of each time divided by that of the bare forwards in the same round."""
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        bare: dict[int, float] = {}
        for name, (work, forwards) in candidates.items():
            duration = seconds(work, device)
            if forwards not in bare:
                bare[forwards] = seconds(partial(subject.forwards, forwards, subject.pack), device)
            measured[name].append(duration / bare[forwards])
    return {name: statistics.median(values) for name, values in measured.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a timm model, random weights")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--maps", type=int, default=5)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--peer-steps", type=int, default=4, help="for the comparison with the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    subject = Subject(arguments.model, arguments.images, arguments.maps, arguments.device)
    few = {"attribkit": ours(subject, arguments.peer_steps)}
    few |= {name: {"torchcam": torchcam, "quantus": quantus}[name](subject, arguments.peer_steps) for name in PEERS}
    for warm_up, _ in few.values():
        warm_up()
    with_peers = ratios(subject, few, arguments.rounds, arguments.device)
    work, forwards = full(subject, arguments.steps)
    before = subject.explainer.model.image_count
    candidates = {
        "attribkit": (work, forwards),
        "all but the model": (without_model(subject, arguments.steps), forwards),
    }
    whole, overhead = ratios(subject, candidates, arguments.rounds, arguments.device).values()
    taken = (subject.explainer.model.image_count - before) / arguments.rounds
    print(f"{arguments.maps} maps of {arguments.images} images, {arguments.steps} steps: {whole:.3f} bare forwards")
    print(f"all but the model's own time: {overhead:.3f} bare forwards")
    print(f"forwards: {taken:.0f} taken, {forwards} needed; bare ones in packs of {subject.pack}")
    for name, ratio in with_peers.items():
        print(f"one map, {arguments.peer_steps} steps: {name:12} {ratio:6.3f} bare forwards")
    suffix = "" if arguments.device == "cpu" else f"_{arguments.device}"
    result = {
        "arguments": vars(arguments),
        "pack": subject.pack,
        "forwards": {"taken": taken, "needed": forwards},
        "time_in_forwards": whole,
        "time_but_for_the_model_in_forwards": overhead,
        "time_in_forwards_of_few_steps": with_peers,
    }
    save(f"speed_metrics_{arguments.model}{suffix}", result, ["torch", "timm", *PEERS.values()])


if __name__ == "__main__":
    main()
