"""What all tests share: one thread in each process, seeds, which cases run when, and the folder of real weights.

One thread, with and without xdist: what tests compare bit by bit is then added up in one order on every machine, and
two workers of xdist fill two cores. ATTRIBKIT_TEST_THREADS=2 runs the tests with two: they pass with any number.

Progress is off, also in processes that tests start: whether a loop takes two seconds depends on the machine.
"""

import os
import random
from collections import defaultdict
from pathlib import Path

import pytest

os.environ.setdefault("TQDM_DISABLE", "1")  # read by tqdm when it is imported


def pytest_configure(config):
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return  # the process that hands xdist's workers their tests runs none
    # The shape checks draw random numbers: from a generator of their own, since models are watched for the global one.
    getrandbits, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
    import beartype  # noqa: F401

    random.getrandbits = getrandbits

    import torch

    torch.set_num_threads(int(os.environ.get("ATTRIBKIT_TEST_THREADS", "1")))


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="one case of each test: make quick")


@pytest.hookimpl(tryfirst=True)  # before -m leaves out what is slow
def pytest_collection_modifyitems(config, items):
    slow_cases = set((Path(__file__).parent / "slow_cases.txt").read_text().splitlines())
    missing = slow_cases - {item.nodeid for item in items}
    if missing and config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        raise pytest.UsageError(f"tests/slow_cases.txt lists cases that do not exist: {sorted(missing)}")
    tests = defaultdict(list)
    for item in items:
        if item.nodeid in slow_cases:
            item.add_marker(pytest.mark.slow)
        if not item.get_closest_marker("slow"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        for case in set(cases) - set(representative(cases)):
            case.add_marker(pytest.mark.combination)
    if config.option.quick:
        quick = {cases[0] for cases in tests.values()}
        config.hook.pytest_deselected(items=[item for item in items if item not in quick])
        items[:] = [item for item in items if item in quick]


def representative(cases):
    """Of the cases of one test as few as hold each value of each of its parameters.

    Of 27 methods times 2 models these are 27: method i with model i modulo 2.
    """
    if not hasattr(cases[0], "callspec"):
        return cases
    columns = [list(dict.fromkeys(column)) for column in zip(*(case.callspec._idlist for case in cases), strict=True)]
    wanted = {tuple(column[i % len(column)] for column in columns) for i in range(max(map(len, columns), default=1))}
    return [case for case in cases if tuple(case.callspec._idlist) in wanted]


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    torch.manual_seed(0)


@pytest.fixture
def as_users_run():
    """Users run without the shape checks of these tests; what they see are our own sentences."""
    import jaxtyping

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
    from attribkit import zoo

    return zoo.load_zoo_model("cnn")


@pytest.fixture(scope="session")
def vit():
    from attribkit import zoo

    return zoo.load_zoo_model("vit")
