"""Measure the cost of methods in the bare passes that they need, and the growth of their memory with the steps.

    python benchmarks/speed_methods.py                        # ResNet-50, batch 1
    python benchmarks/speed_methods.py --model resnet18 --batch 8 --rounds 9
    python benchmarks/speed_methods.py --rows shared classes  # some rows
    python benchmarks/speed_methods.py --device cuda

Time: each round runs the method and the bare passes; the result is the median ratio over the rounds. A bare pass is a
plain forward in inference mode, or a forward and the gradient of a class with respect to the images, with the batch
size of the method. Memory: the peak above the model and the images with twice the steps, divided by that with the
steps, each in a separate process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from environment import save
from speed import peak_memory_of
from torch import nn

from attribkit import Explainer
from attribkit.methods import Occlusion

SEVEN = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "saliency", "input_x_gradient"]
NINE = [*SEVEN, "guided_backprop", "guided_gradcam"]
PACK = 16  # perturbed images in a forward


@dataclass(frozen=True)
class Row:
    """A method, the bare passes that it needs, and the largest ratio that is accepted."""

    name: str
    ours: Callable[[], object]
    bare: Callable[[], object]
    goal: float


class Subject:
    """A model, images, and the bare passes over them."""

    def __init__(self, name: str, batch: int, device: str) -> None:
        torch.manual_seed(0)
        model: Any = timm.create_model(name).eval().requires_grad_(False).to(device)
        self.model: nn.Module = model
        self.x = torch.randn(batch, *model.pretrained_cfg["input_size"], device=device)
        self.explainer = Explainer(self.model)
        self.many = self.x[:1].expand(PACK, -1, -1, -1).contiguous()

    def forwards(self, images: int) -> None:
        """Run plain forwards of a number of images in packs; the last pack may be smaller."""
        with torch.inference_mode():
            for start in range(0, images, PACK):
                self.model(self.many[: images - start])

    def forward(self) -> None:
        with torch.inference_mode():
            self.model(self.x)

    def gradient(self) -> None:
        leaf = self.x.clone().requires_grad_()
        torch.autograd.grad(self.model(leaf)[:, 1].sum(), leaf)

    def gradients(self, images: int) -> None:
        for start in range(0, images, PACK):
            leaf = self.many[: images - start].clone().requires_grad_()
            torch.autograd.grad(self.model(leaf)[:, 1].sum(), leaf)

    def explain(self, method: str, **options: Any) -> Callable[[], object]:
        return lambda: self.explainer.attribute(self.x, method, target=1, **options)

    def compare(self, methods: list[str], targets: list[int]) -> Callable[[], object]:
        return lambda: self.explainer.compare(self.x, methods, targets=targets)


def rows(subject: Subject) -> dict[str, Callable[[], Iterator[Row]]]:
    """Return the rows by the name of their group; the goals are for a CPU."""
    x = subject.x

    def gradients() -> Iterator[Row]:
        yield Row("saliency / input gradient", subject.explain("saliency"), subject.gradient, 1.03)
        yield Row("guided backprop / input gradient", subject.explain("guided_backprop"), subject.gradient, 1.1)

    def shared() -> Iterator[Row]:
        yield Row("seven maps / forward", subject.compare(SEVEN, [1]), subject.forward, 2.3)
        yield Row("nine maps / forward", subject.compare(NINE, [1]), subject.forward, 3.5)

    def classes() -> Iterator[Row]:
        yield Row("Grad-CAM of 1 class / forward", subject.compare(["gradcam"], [1]), subject.forward, 1.15)
        yield Row(
            "Grad-CAM of 10 classes / forward", subject.compare(["gradcam"], list(range(10))), subject.forward, 2.0
        )

    def perturbations() -> Iterator[Row]:
        windows = len(list(Occlusion()._windows(tuple(x.shape[2:]))))
        channels = subject.explainer.model.activation(x).shape[1]
        each = len(x)
        yield Row(
            "integrated gradients, 50 steps / 50 gradients",
            subject.explain("integrated_gradients"), lambda: subject.gradients(50 * each), 1.05,
        )  # fmt: skip
        yield Row(
            f"occlusion / {windows + 1} forwards",
            subject.explain("occlusion"), lambda: subject.forwards((windows + 1) * each), 1.05,
        )  # fmt: skip
        yield Row(
            "RISE, 256 masks / 257 forwards",
            subject.explain("rise", masks=256), lambda: subject.forwards(257 * each), 1.05,
        )  # fmt: skip
        yield Row(
            f"Score-CAM / {channels + 1} forwards",
            subject.explain("scorecam"), lambda: subject.forwards((channels + 1) * each), 1.05,
        )  # fmt: skip

    return {"gradients": gradients, "shared": shared, "classes": classes, "perturbations": perturbations}


GROWING: dict[str, list[dict[str, Any]]] = {  # method: options with the steps, and with twice the steps
    "integrated_gradients": [{"steps": 32}, {"steps": 64}],
    "smoothgrad": [{"samples": 32}, {"samples": 64}],
    "occlusion": [{"patch": 64, "stride": 32}, {"patch": 64, "stride": 23}],
    "rise": [{"masks": 128}, {"masks": 256}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a timm CNN, random weights")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", nargs="*", default=["gradients", "shared", "classes", "perturbations", "memory"])
    parser.add_argument("--measure-memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory_of:
        print(peak_memory(arguments))
        return
    subject = Subject(arguments.model, arguments.batch, arguments.device)
    groups = rows(subject)
    times: dict[str, dict[str, float]] = {}
    for group in (name for name in groups if name in arguments.rows):
        for row in groups[group]():
            ratio = ratio_of(row, arguments.rounds, arguments.device)
            times[row.name] = {"ratio": ratio, "goal": row.goal}
            print(f"{row.name:55} {ratio:6.3f}   goal {row.goal:.2f}", flush=True)
    memory = {name: growth(name) for name in GROWING} if "memory" in arguments.rows else {}
    for name, ratio in memory.items():
        print(f"{name + ': memory of twice the steps':55} {ratio:6.3f}   goal 1.05")
    suffix = "" if arguments.device == "cpu" else f"_{arguments.device}"
    save(
        f"speed_methods_{arguments.model}_batch{arguments.batch}{suffix}",
        {"arguments": vars(arguments), "time_ratio": times, "memory_of_twice_the_steps": memory},
    )


def ratio_of(row: Row, rounds: int, device: str) -> float:
    """Return the median ratio over the rounds; the first round is a warm-up."""
    ratios = []
    for _ in range(rounds + 1):
        ours, bare = seconds(row.ours, device), seconds(row.bare, device)
        ratios.append(ours / bare)
    return statistics.median(ratios[1:])


def seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def growth(method: str) -> float:
    """Return the peak memory with twice the steps, divided by that with the steps."""
    peaks = []
    for which in (0, 1):
        command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--measure-memory-of", method, str(which)]
        # Freed memory returns to the system at once; the peak above the start is then what the call needs.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks.append(float(done.stdout.split()[-1]))
    return peaks[1] / peaks[0]


def peak_memory(arguments: argparse.Namespace) -> float:
    """Return the peak in MiB above the model and the images."""
    method, which = arguments.measure_memory_of
    subject = Subject(arguments.model, arguments.batch, arguments.device)
    return peak_memory_of(subject.explain(method, **GROWING[method][int(which)]), arguments.device)


if __name__ == "__main__":
    main()
