"""Metrics of complexity against closed forms and loops."""

import math

import numpy as np
import pytest
import torch

from attribkit import AttribkitError, registry
from attribkit.metrics._complexity import EffectiveComplexity, MapEntropy, Sparseness
from tests.maps import NAN, check_that_images_do_not_meet, of, same

EVERY = [MapEntropy(), EffectiveComplexity(), Sparseness()]


@pytest.mark.parametrize("space", [(6, 6), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("k", [1, 2, 7, None])
def test_k_pixels_alike_and_the_others_zero(space, k):
    count = math.prod(space)
    k = k or count
    heatmap = torch.zeros(count)
    heatmap[torch.randperm(count)[:k]] = -0.3
    attribution = of(heatmap.reshape(space))
    same(MapEntropy()(attribution), [math.log(k)], 1e-9)
    same(EffectiveComplexity()(attribution), [k])
    same(Sparseness()(attribution), [1 - k / count], 1e-9)


def test_they_equal_a_loop():
    maps = np.random.default_rng(0).standard_normal((5, 7, 9))
    entropies, counts, ginis = [], [], []
    for heatmap in maps:
        values = sorted(abs(v) for v in heatmap.ravel())
        total, n = sum(values), len(values)
        entropies.append(-sum(v / total * math.log(v / total) for v in values))
        counts.append(sum(v > 0.3 * values[-1] for v in values))
        ginis.append(sum(abs(a - b) for a in values for b in values) / (2 * n * total))  # the mean difference
    same(MapEntropy()(of(*maps)), entropies, 1e-9)
    same(EffectiveComplexity(negligible=0.3)(of(*maps)), counts)
    same(Sparseness()(of(*maps)), ginis, 1e-9)


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_a_zero_map_has_no_number(metric):
    same(metric(of(torch.zeros(4, 4), torch.ones(4, 4)))[:1], [NAN])


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_neither_scale_nor_sign_counts(metric):
    heatmap = torch.randn(8, 8, dtype=torch.float64)
    expected = metric(of(heatmap))
    for other in (heatmap * 1e-30, heatmap * 1e30, heatmap.abs(), -heatmap):
        same(metric(of(other)), expected, 1e-12)


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_images_do_not_meet(metric):
    check_that_images_do_not_meet(metric, "guided_backprop")


def test_a_share_that_makes_no_sense_is_refused(as_users_run):
    with pytest.raises(AttribkitError, match=r"negligible must be .*, got 1"):
        registry.make("effective_complexity", EffectiveComplexity, negligible=1)


def test_they_equal_quantus_on_positive_maps():
    quantus = pytest.importorskip("quantus")
    maps = np.random.default_rng(0).random((4, 6, 6)) + 0.01
    for ours, theirs in ((MapEntropy(), quantus.Complexity), (Sparseness(), quantus.Sparseness)):
        peer = theirs(disable_warnings=True).evaluate_batch(x_batch=maps[:, None], a_batch=maps[:, None].copy())
        same(ours(of(*maps)), peer, 1e-6)
