"""What a map costs: time, forwards and memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from attribkit.explainer import Explainer

_MIB = 1024**2
_PEAK, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Of a call that explained some images."""

    milliseconds: float
    forwards: float  # images that went through the model
    peak_mib: float | None  # memory beyond what was taken before; None where it cannot be measured

    def per_image(self, images: int) -> "Cost":
        """Time and forwards of each of so many images; the memory is that of all of them."""
        return Cost(self.milliseconds / images, self.forwards / images, self.peak_mib)


def costed(explainer: Explainer, device: torch.device, call: Callable[[], Result]) -> tuple[Result, Cost]:
    """What the call gives, and what it costs; the device is waited for."""
    peak = _cuda_peak if device.type == "cuda" else _resident_peak
    before = peak(device, forget=True)
    seen, start = explainer.model.images_seen, _now(device)
    result = call()
    milliseconds = 1000 * (_now(device) - start)
    after = peak(device, forget=False)
    grown = None if before is None or after is None else max(0.0, after - before)
    return result, Cost(milliseconds, float(explainer.model.images_seen - seen), grown)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _cuda_peak(device: torch.device, *, forget: bool) -> float:
    """The most that tensors took since it was last forgotten."""
    if forget:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device) / _MIB


def _resident_peak(_device: torch.device, *, forget: bool) -> float | None:
    """The most that the process took since it was last forgotten; None where the system does not tell."""
    try:
        if forget:
            _FORGET_PEAK.write_text("5", encoding="ascii")
        line = next(line for line in _PEAK.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return float(line.split()[1]) / 1024
