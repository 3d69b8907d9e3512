"""[core/devices] Devices: by name, and how numbers get there.
[core/fingerprint] Tensors told in a few characters, and compared by them.
"""

import platform
import zlib
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from attribkit.core.errors import InvalidInput


def resolve_device(name: str) -> torch.device:
    """A device that works; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name, dtype=torch.float32).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(f"device={name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The name of a device for a record of numbers; of a CPU with the instructions that torch uses on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else str(device)


def to_device(
    numbers: int | Sequence[int] | Sequence[float], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """A number, or several in a row, as a tensor on a device; from pinned memory, so that nobody waits for a GPU."""
    pinned = device.type == "cuda" and torch.cuda.is_available()  # tensors can be there in name only
    return torch.tensor(numbers, dtype=dtype, pin_memory=pinned, device="cpu").to(device, non_blocking=pinned)


def _processor() -> str:
    """The name of the CPU, or its architecture where the system has no name for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # of Linux
    except (OSError, UnicodeDecodeError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def fingerprint(tensor: Tensor) -> str:
    """Shape and checksum of the values, as in "(3, 224, 224), crc32=00c0ffee": for captions and records."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # as bytes, so that no digit is lost
    return f"{tuple(tensor.shape)}, crc32={zlib.crc32(values.numpy().data):08x}"


@dataclass(frozen=True, eq=False)
class Fingerprinted(ABC):
    """A tensor that a user gave as an option: told, compared and hashed by its fingerprint, taken once.

    Subclass as a dataclass that leaves this so: ``@dataclass(frozen=True, eq=False, repr=False)``.
    """

    tensor: Tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._told})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprinted) and (type(self), self._told) == (type(other), other._told)

    def __hash__(self) -> int:
        return hash(self._told)

    @cached_property
    def _told(self) -> str:
        return fingerprint(self.tensor)
