"""Cases of a test that take seconds: a few for `make test`, the others for `make slow`."""

import pytest


def few(cases, *names):
    """Return the cases as parameters, with all but the named ones marked as slow."""
    assert set(names) <= set(cases), f"{sorted(set(names) - set(cases))} are not among the cases"
    return [case if case in names else pytest.param(case, marks=pytest.mark.slow) for case in cases]
