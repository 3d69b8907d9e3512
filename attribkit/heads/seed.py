"""Random numbers that a seed repeats."""

import random

import numpy as np
import torch


def sow(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy, and PyTorch's generators of the CPU and of this device; those of other devices go on."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the global state is what a user's transforms draw from
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
