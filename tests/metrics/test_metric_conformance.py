"""Every registered metric through the public conformance suite."""

import pytest

from attribkit import registry
from attribkit.testing import METRIC_CHECKS, check_metric, tiny_cnn
from attribkit.testing._examples import images

OPTIONS = {"sensitivity_n": {"sizes": 3, "subsets": 20}}  # for a quick answer


@pytest.mark.parametrize("check", METRIC_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("cls", registry.metrics().values(), ids=lambda cls: cls.name)
def test_every_metric(cls, check):
    check(cls(**OPTIONS.get(cls.name, {})), tiny_cnn(), images())


def test_all_checks_at_once():
    check_metric(registry.metrics()["pointing_game"]())
