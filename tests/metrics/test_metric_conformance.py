"""Every registered metric through the public conformance suite."""

from dataclasses import dataclass

import pytest
import torch

from attribkit import Complexity, Faithfulness, registry
from attribkit.testing import METRIC_CHECKS, check_metric, tiny_cnn
from attribkit.testing._metrics import check_metric_counts_forwards, check_metric_of_an_image_alone
from attribkit.testing._state import images

OPTIONS = {"sensitivity_n": {"sizes": 3, "subsets": 20}}  # for a quick answer


@pytest.mark.parametrize("check", METRIC_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("cls", registry.metrics().values(), ids=lambda cls: cls.name)
def test_every_metric(cls, check):
    check(cls(**OPTIONS.get(cls.name, {})), tiny_cnn(), images())


@dataclass(frozen=True)
class OfTheBatch(Complexity):
    """The share of the batch's magnitude, as a careless author would write it."""

    name = "of_the_batch"
    source = "nobody"
    higher_is_better = None

    def __call__(self, attribution):
        sums = self.heatmap(attribution).abs().flatten(1).sum(1)
        return sums / sums.sum()


@dataclass(frozen=True)
class Wasteful(Faithfulness):
    """Asks about the image anew for every map."""

    name = "wasteful"
    source = "nobody"
    higher_is_better = None

    def __call__(self, model, attributions):
        return torch.stack([model.score(each.x.clone(), each.target) for each in attributions])


def test_a_number_that_depends_on_the_batch_is_found():
    with pytest.raises(AssertionError, match="values of images scored together and alone differ by"):
        check_metric_of_an_image_alone(OfTheBatch(), tiny_cnn(), images())


def test_a_metric_that_shares_nothing_is_found():
    with pytest.raises(AssertionError, match="one map needs 3 images through the model, two maps need 6"):
        check_metric_counts_forwards(Wasteful(), tiny_cnn(), images())


def test_all_checks_at_once():
    check_metric(registry.metrics()["pointing_game"]())
