"""Measure the cost of Grad-CAM in plain forwards, for attribkit and the installed peers.

    python benchmarks/speed.py                       # ResNet-50, batch 8 for time and 32 for memory
    python benchmarks/speed.py --model resnet18 --rounds 20
    python benchmarks/speed.py --device cuda

Time: each round runs every library once; the result is the median over the rounds of the ratio to the forward of the
same round. Memory: the peak above the model and the images, each library in a separate process.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from environment import save

Candidate = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a timm model, random weights")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--memory-batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure-memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory_of:
        print(peak_memory(arguments))
        return
    times = interleaved(
        candidates(arguments.model, arguments.batch, arguments.device), arguments.rounds, arguments.device
    )
    memory = {name: memory_in_a_process(name) for name in times}
    print(f"{arguments.model}: time at batch {arguments.batch}, memory at batch {arguments.memory_batch}")
    for name, ratio in times.items():
        ratio_of_memory = memory[name] / memory["forward"]
        print(f"{name:20} {ratio:6.3f} forwards {memory[name]:9.1f} MiB {ratio_of_memory:6.2f} of the forward's")
    suffix = "" if arguments.device == "cpu" else f"_{arguments.device}"
    result = {"arguments": vars(arguments), "time_in_forwards": times, "peak_memory_in_mib": memory}
    save(f"speed_{arguments.model}{suffix}", result, ["torch", "timm", *PEERS.values()])


PEERS = {
    module: distribution
    for module, distribution in (("pytorch_grad_cam", "grad-cam"), ("captum", "captum"), ("torchcam", "torchcam"))
    if importlib.util.find_spec(module)
}


def candidates(model_name: str, batch: int, device: str) -> dict[str, Candidate]:
    """Return a function each for the plain forward, attribkit and the peers; all explain the predicted class."""
    torch.manual_seed(0)
    model: Any = timm.create_model(model_name).eval().to(device)
    x = torch.randn(batch, *model.pretrained_cfg["input_size"], device=device)
    functions: dict[str, Candidate] = {"forward": lambda: forward(model, x), "attribkit": ours(model, x)}
    layer = model.get_submodule(model.feature_info[-1]["module"])
    if "torchcam" in PEERS:
        functions["torchcam"] = lambda: torchcam(model, layer, x)
    if "captum" in PEERS:
        functions["captum"] = lambda: captum(model, layer, x)
    if "pytorch_grad_cam" in PEERS:
        functions["pytorch-grad-cam"] = lambda: pytorch_grad_cam(model, layer, x)
    return functions


@torch.inference_mode()
def forward(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x)


def ours(model: torch.nn.Module, x: torch.Tensor) -> Candidate:
    from attribkit import Explainer

    explainer = Explainer(model)
    return lambda: explainer.attribute(x, "gradcam").scores


def captum(model: torch.nn.Module, layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    from captum.attr import LayerGradCam

    model.requires_grad_(False)
    try:
        # captum needs a class: the forward of one image is the least that it can cost
        target = forward(model, x[:1]).argmax(1).expand(len(x)).clone()
        return LayerGradCam(model, layer).attribute(x.clone().requires_grad_(), target=target, relu_attributions=True)
    finally:
        model.requires_grad_(True)


def torchcam(model: torch.nn.Module, layer: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    from torchcam.methods import GradCAM

    with GradCAM(model, target_layer=layer) as extractor:
        scores = model(x.clone().requires_grad_())
        return extractor(scores.argmax(1).tolist(), scores)


def pytorch_grad_cam(model: torch.nn.Module, layer: torch.nn.Module, x: torch.Tensor) -> object:
    from pytorch_grad_cam import GradCAM

    with GradCAM(model=model, target_layers=[layer]) as cam:
        return cam(input_tensor=x, targets=None)


def interleaved(functions: dict[str, Candidate], rounds: int, device: str) -> dict[str, float]:
    """Return the median over the rounds of each function's time divided by that of the forward in the same round."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            if round_:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return {
        name: statistics.median(t / f for t, f in zip(times, seconds["forward"], strict=True))
        for name, times in seconds.items()
    }


def memory_in_a_process(name: str) -> float:
    """Return the peak memory of one candidate in MiB, measured in a new process."""
    command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--measure-memory-of", name]
    # Freed memory returns to the system at once; the peak above the start is then what the call needs.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return float(
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()[-1]
    )


def peak_memory(arguments: argparse.Namespace) -> float:
    function = candidates(arguments.model, arguments.memory_batch, arguments.device)[arguments.measure_memory_of]
    return peak_memory_of(function, arguments.device)


def peak_memory_of(function: Candidate, device: str) -> float:
    """Return the peak in MiB above the memory before the call."""
    function()  # allocates what stays
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    function()
    return (resident("VmHWM") - before) / 1024


def resident(field: str) -> int:
    """Return a field of the memory status of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


if __name__ == "__main__":
    main()
