"""Devices, transfers to them, and fingerprints of tensors."""

import platform
import zlib
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from attribkit._core.errors import InvalidInput


def resolve_device(name: str) -> torch.device:
    """Return a working device; "auto" is the GPU if there is one.

    Raises:
        InvalidInput: The device does not exist or cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name, dtype=torch.float32).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(f"device={name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Return the hardware name of a device for records; for a CPU with the instruction set that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else str(device)


def to_device(
    numbers: int | Sequence[int] | Sequence[float], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Return numbers as a tensor on a device, copied from pinned memory without waiting for a GPU."""
    pinned = device.type == "cuda" and torch.cuda.is_available()  # fake tensors have a CUDA device without a GPU
    return torch.tensor(numbers, dtype=dtype, pin_memory=pinned, device="cpu").to(device, non_blocking=pinned)


def _processor() -> str:
    """Return the name of the CPU, or its architecture if the system does not provide a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # Linux
    except (OSError, UnicodeDecodeError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def fingerprint(tensor: Tensor) -> str:
    """Return shape and checksum of a tensor for captions and records, as in "(3, 224, 224), crc32=00c0ffee"."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{tuple(tensor.shape)}, crc32={zlib.crc32(values.numpy().data):08x}"


@dataclass(frozen=True, eq=False)
class Fingerprinted(ABC):
    """A tensor as an option, formatted, compared and hashed by its fingerprint, which is computed once.

    Subclass it as ``@dataclass(frozen=True, eq=False, repr=False)``, which keeps these methods.

    Args:
        tensor: The tensor.
    """

    tensor: Tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprinted) and (type(self), self._fingerprint) == (type(other), other._fingerprint)

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.tensor)
