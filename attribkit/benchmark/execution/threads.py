"""The number of threads within an operation: sums are added up in another order by another number."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Within: so many threads in each operation of torch on the CPU, whatever the machine has. Put back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
