"""What all tests share: one thread in each process, seeds, and the folder of real weights and photographs.

One thread, with and without xdist: what tests compare bit by bit is then added up in one order on every machine, and
two workers of xdist fill two cores. ATTRIBKIT_TEST_THREADS=2 runs the tests with two: they pass with any number.
"""

import os
import random
from pathlib import Path

import jaxtyping
import pytest
import torch

# The shape checks draw random numbers: from a generator of their own, since models are watched for the global one.
_GLOBAL, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
import beartype  # noqa: E402, F401

random.getrandbits = _GLOBAL

from attribkit import zoo  # noqa: E402


def pytest_configure(config):
    torch.set_num_threads(int(os.environ.get("ATTRIBKIT_TEST_THREADS", "1")))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def as_users_run():
    """Users run without the shape checks of these tests; what they see are our own sentences."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and photographs."""
    folder = os.environ.get("ATTRIBKIT_ASSETS")
    if not folder:
        pytest.skip("ATTRIBKIT_ASSETS, the folder of real weights and photographs, is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def cnn():
    return zoo.load_zoo_model("cnn")


@pytest.fixture(scope="session")
def vit():
    return zoo.load_zoo_model("vit")
