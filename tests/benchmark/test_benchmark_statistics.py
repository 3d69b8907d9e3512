"""What the benchmark's statistics say, against closed forms, slow loops and scipy."""

import csv
import dataclasses
import io
import itertools
import json
import math
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from attribkit import registry
from attribkit._core.errors import InvalidInput, UnreadableFile
from attribkit.benchmark._statistics import Summary, summarise
from attribkit.benchmark._statistics.agreement import (
    critical_difference,
    friedman,
    kendall_over_methods,
    rank_cliques,
    spearman_over_methods,
)
from attribkit.benchmark._statistics.bootstrap import Bootstrap, Resamples, bootstrap_intervals, combine_statistics
from attribkit.benchmark._statistics.comparisons import holm, signed_rank
from attribkit.benchmark._statistics.means import Means
from attribkit.benchmark._tables.csv_files import write_csv
from attribkit.benchmark._tables.latex import escape_latex, latex
from attribkit.benchmark._tables.panels import agreement_tables, cell_text, panels, ranking_tables
from attribkit.benchmark._tables.rendering import tables

pa = pytest.importorskip("pyarrow")

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("method", pa.string()),
        ("method_options", pa.string()),
        ("inverted", pa.bool_()),
        ("metric", pa.string()),
        ("metric_options", pa.string()),
        ("higher_is_better", pa.bool_()),
        ("kind", pa.string()),
        ("image", pa.string()),
        ("group", pa.string()),
        ("category", pa.string()),
        ("subsets", pa.list_(pa.string())),
        ("target", pa.int64()),
        ("label", pa.int64()),
        ("value", pa.float64()),
        ("tie_fraction", pa.float32()),
        ("floor", pa.float32()),
    ]
)
NAN = float("nan")


def rows_of(values, method="gradcam", **columns):
    """A row for each value, of images named 0, 1, ..."""
    row = {
        "model": "zoo:cnn",
        "method": method,
        "method_options": f"{method}()",
        "inverted": False,
        "metric": "insertion",
        "higher_is_better": True,
        "kind": "faithfulness",
        "subsets": [],
        **columns,
    }
    row.setdefault("metric_options", f"{row['metric']}()")
    per_image = {key: value for key, value in row.items() if isinstance(value, list) and key != "subsets"}
    subsets = (
        row["subsets"] if row["subsets"] and isinstance(row["subsets"][0], list) else [row["subsets"]] * len(values)
    )
    return [
        {
            "image": f"{k:03}",
            "group": f"{k:03}",
            **row,
            **{key: value[k] for key, value in per_image.items()},
            "subsets": subsets[k],
            "value": float(value),
        }
        for k, value in enumerate(values)
    ]


def table(*parts):
    return pa.Table.from_pylist([row for part in parts for row in part], schema=SCHEMA)


def summary(*parts, **options):
    return summarise(table(*parts), **{"resamples": 500, **options})


def score(found, method="gradcam", statistic="mean", **wanted):
    wanted = {"subset": "all", "inverted": False, **wanted, "method": method, "statistic": statistic}
    hits = [each for each in found.scores if all(getattr(each, key) == value for key, value in wanted.items())]
    assert len(hits) == 1, (wanted, hits)
    return hits[0]


def bootstrap(groups, resamples=400, seed=3):
    groups = np.asarray(groups, np.int64)
    return Bootstrap(groups, Resamples(resamples, seed).weights(int(groups.max()) + 1))


# Intervals


@pytest.mark.parametrize("images", [7, 40, 300])
def test_interval_is_that_of_scipy(images):
    values = np.random.default_rng(images).gamma(15, size=(1, images)).round()  # sums are exact: ties are ties
    drawn = bootstrap(np.arange(images)).means(values)
    ends, is_bca = bootstrap_intervals(drawn, 0.9)
    for method, level in (("BCa", ends), ("percentile", None)):
        expected = scipy.stats.bootstrap(
            (values[0],), np.mean, n_resamples=400, confidence_level=0.9, method=method, rng=np.random.default_rng(3)
        )
        np.testing.assert_allclose(drawn.resampled[0], expected.bootstrap_distribution, rtol=1e-12)
        if level is not None:
            np.testing.assert_allclose(level[0], expected.confidence_interval, rtol=1e-9)
    assert is_bca.all()


def test_interval_of_hits_and_misses_is_that_of_scipy():
    values = (np.random.default_rng(0).random((1, 25)) < 0.3).astype(float)
    ends, _ = bootstrap_intervals(bootstrap(np.arange(25)).means(values), 0.95)
    expected = scipy.stats.bootstrap((values[0],), np.mean, n_resamples=400, rng=np.random.default_rng(3))
    np.testing.assert_allclose(ends[0], expected.confidence_interval, rtol=1e-12)


def test_weights_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    whole = Resamples(50, 1).weights(37)
    monkeypatch.setattr("attribkit.benchmark._statistics.bootstrap._MAX_WEIGHTS", 100)
    assert (Resamples(50, 1).weights(37) == whole).all()
    assert (whole.sum(1) == 37).all()


def test_groups_are_drawn_whole():
    rng = np.random.default_rng(5)
    groups = np.sort(rng.integers(0, 9, 30))
    groups = np.unique(groups, return_inverse=True)[1]
    values = rng.normal(size=(2, 30))
    values[1, rng.random(30) < 0.3] = NAN
    sampler = bootstrap(groups, 60)
    drawn = sampler.means(values)
    for k, r in itertools.product(range(2), range(60)):
        picked = [v for g, times in enumerate(sampler.weights[r]) for v in np.repeat(values[k, groups == g], times)]
        assert drawn.resampled[k, r] == pytest.approx(np.nanmean(picked), abs=1e-12)
    for k, g in itertools.product(range(2), range(groups.max() + 1)):
        assert drawn.jackknife[k, g] == pytest.approx(np.nanmean(values[k, groups != g]), abs=1e-12)


def test_samples_of_an_image_are_no_independent_evidence():
    values = np.random.default_rng(1).normal(size=40)
    once = score(summary(rows_of(values))).estimate
    images = [str(k // 5) for k in range(200)]
    five = score(summary(rows_of(np.repeat(values, 5), group=images))).estimate
    assert (five.samples, five.groups) == (200, 40)
    assert five.high - five.low == pytest.approx(once.high - once.low, rel=0.15)
    alone = score(summary(rows_of(np.repeat(values, 5)))).estimate
    assert alone.high - alone.low < 0.6 * (five.high - five.low)


def test_intervals_cover():
    rng = np.random.default_rng(0)
    trials, images = 400, 60
    data = rng.gamma(2.0, size=(trials, images))  # mean 2, skewed
    ends, _ = bootstrap_intervals(bootstrap(np.arange(images), 1000).means(data), 0.9)
    hits = int(((ends[:, 0] <= 2) & (ends[:, 1] >= 2)).sum())
    low, high = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], trials, 0.89)
    assert low <= hits <= high


def test_cluster_intervals_cover():
    rng = np.random.default_rng(2)
    trials, images, each = 300, 60, 4
    data = np.repeat(rng.normal(size=(trials, images)), each, axis=1) + 0.2 * rng.normal(size=(trials, images * each))
    ends, _ = bootstrap_intervals(bootstrap(np.repeat(np.arange(images), each), 1000).means(data), 0.9)
    hits = int(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).sum())
    low, high = scipy.stats.binom.ppf([1e-4, 1 - 1e-4], trials, 0.89)
    assert low <= hits <= high


@pytest.mark.parametrize(("values", "how"), [([0.25] * 8, "percentile"), ([0.25], "none"), ([0.1, 0.4], None)])
def test_interval_of_little(values, how):
    found = score(summary(rows_of(values))).estimate
    assert found.value == pytest.approx(np.mean(values))
    if how == "none":
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    else:
        assert found.low <= found.value <= found.high
    assert how is None or found.interval == how


def test_undefined_and_missing_are_counted():
    found = summary(rows_of([1, 2, NAN, math.inf, 6]), rows_of([1, 2, 3], "rise"), rows_of([NAN] * 5, "saliency"))
    gradcam, rise, saliency = (score(found, name).estimate for name in ("gradcam", "rise", "saliency"))
    assert (gradcam.value, gradcam.samples, gradcam.undefined, gradcam.missing) == (3, 3, 2, 0)
    assert (rise.value, rise.samples, rise.undefined, rise.missing) == (2, 3, 0, 2)
    assert (saliency.samples, saliency.undefined, saliency.groups) == (0, 5, 0)
    assert math.isnan(saliency.value)
    assert saliency.interval == "none"


def test_class_mean_weighs_classes_alike():
    found = summary(
        rows_of([1, 0, 0, 0], metric="pointing", kind="localization", category=["cat", "dog", "dog", "dog"])
    )
    assert score(found).estimate.value == 0.25
    assert score(found, statistic="class_mean").estimate.value == 0.5


def test_class_mean_against_a_slow_loop():
    rng = np.random.default_rng(7)
    groups = np.sort(rng.integers(0, 12, 40))
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    categories = rng.integers(-1, 4, 40)
    values = rng.normal(size=(2, 40))
    values[0, :5] = NAN
    sampler = bootstrap(groups, 50)
    drawn = Means(values, sampler).class_means(categories)

    def slow(k, weights):
        found = []
        for category in range(4):
            use = (categories == category) & ~np.isnan(values[k])
            if weights[groups[use]].sum():
                found.append(np.average(values[k, use], weights=weights[groups[use]]))
        return np.mean(found)

    everything = np.ones(groups.max() + 1)
    for k in range(2):
        assert drawn.value[k] == pytest.approx(slow(k, everything), abs=1e-12)
        for r in range(50):
            assert drawn.resampled[k, r] == pytest.approx(slow(k, sampler.weights[r].astype(float)), abs=1e-12)
        for g in range(len(everything)):
            without = everything.copy()
            without[g] = 0
            assert drawn.jackknife[k, g] == pytest.approx(slow(k, without), abs=1e-12)


def test_class_mean_tells_categories_that_a_method_lacks():
    places = {"metric": "pointing", "kind": "localization", "category": ["cat", "cat", "dog", "dog"]}
    found = summary(rows_of([1, 0, 1, 1], **places), rows_of([1, 1, NAN, NAN], "rise", **places))
    assert score(found, statistic="class_mean").notes == ()
    assert score(found, "rise", statistic="class_mean").notes == ("over 1 of 2 categories",)


def test_subsets_have_rows_of_their_own():
    subsets = [["difficult"], [], ["difficult", "small"], []]
    found = summary(rows_of([1, 2, 3, 4], subsets=subsets), rows_of([5, 6, 7, 8], "rise", subsets=subsets))
    assert score(found).estimate.value == 2.5
    assert score(found, subset="difficult").estimate.value == 2
    assert score(found, "rise", subset="small").estimate.value == 7
    assert {each.subset for each in found.comparisons} == {"all", "difficult", "small"}


# Comparisons


def test_difference_is_paired():
    rng = np.random.default_rng(0)
    base = rng.normal(size=50) * 10
    found = summary(rows_of(base + 0.5 + 0.1 * rng.normal(size=50)), rows_of(base, "rise"))
    (pair,) = found.comparisons
    assert (pair.first, pair.second) == ("gradcam", "rise")
    assert 0.4 < pair.difference.low < 0.5 < pair.difference.high < 0.6
    assert score(found).estimate.low < score(found, "rise").estimate.high  # the means alone tell nothing apart
    assert (pair.wins, pair.ties, pair.losses, pair.superiority) == (50, 0, 0, 1)


def test_difference_is_over_the_images_that_both_have():
    first, second = np.array([1, 2, NAN, 9, 3.0]), np.array([0, NAN, 5, 7, 1.0])
    (pair,) = summary(rows_of(first), rows_of(second, "rise")).comparisons
    assert pair.difference.value == pytest.approx(5 / 3)
    assert pair.difference.samples == 3
    (alone,) = summary(rows_of(first[[0, 3, 4]]), rows_of(second[[0, 3, 4]], "rise")).comparisons
    assert alone.difference.value == pytest.approx(pair.difference.value, rel=1e-12)


def test_same_numbers_differ_by_nothing():
    values = np.random.default_rng(3).normal(size=(30,)) + 0.1
    (pair,) = summary(rows_of(values), rows_of(values, "rise")).comparisons
    assert (pair.difference.value, pair.difference.low, pair.difference.high) == (0, 0, 0)
    assert (pair.wins, pair.ties, pair.losses, pair.superiority, pair.p) == (0, 30, 0, 0.5, 1)


def test_lower_is_better_turns_wins_not_differences():
    (pair,) = summary(
        rows_of([1, 1, 1, 5], higher_is_better=False), rows_of([2, 2, 1, 1], "rise", higher_is_better=False)
    ).comparisons
    assert pair.difference.value == 0.5
    assert (pair.wins, pair.ties, pair.losses, pair.superiority) == (2, 1, 1, 0.625)


def test_signed_rank_is_that_of_scipy():
    rng = np.random.default_rng(0)
    plain = rng.normal(0.3, 1, 20)
    assert signed_rank(plain) == scipy.stats.wilcoxon(plain, method="exact").pvalue
    tied = rng.integers(-3, 5, 80).astype(float)
    expected = scipy.stats.wilcoxon(tied, zero_method="pratt", method="asymptotic").pvalue
    assert signed_rank(tied) == expected
    assert signed_rank(np.arange(1.0, 7)) == pytest.approx(2 / 64)
    assert math.isnan(signed_rank(np.arange(1.0, 6)))
    assert signed_rank(np.zeros(10)) == 1


def test_signed_rank_takes_one_number_per_image():
    values = np.random.default_rng(2).normal(0.4, 1, 12)
    images = [str(k // 2) for k in range(12)]
    (pair,) = summary(rows_of(values, group=images), rows_of([0] * 12, "rise", group=images)).comparisons
    assert pair.p == pytest.approx(signed_rank(values.reshape(6, 2).mean(1)))
    assert pair.wins + pair.ties + pair.losses == 6


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.01, NAN, 0.9, 0.6])), [0.03, NAN, 1, 1])
    assert holm(np.array([])).size == 0


def test_comparisons_leave_out_the_truth_and_negatives():
    places = {"metric": "mass", "kind": "localization"}
    found = summary(
        *(rows_of(np.arange(8) + k, name, **places) for k, name in enumerate(("gradcam", "random", "truth"))),
        rows_of(-np.arange(8), inverted=True, **places),
    )
    assert [(pair.first, pair.second) for pair in found.comparisons] == [("gradcam", "random")]


# Rankings

# Demsar (2006), table 6: ranks of C4.5, and with m, cf, and both, on 14 data sets.
DEMSAR = np.array(
    [
        [4, 1, 4, 4, 4, 1, 3, 2.5, 4, 2.5, 4, 3, 4, 3],
        [3, 2, 1, 1, 2, 2.5, 2, 2.5, 3, 2.5, 2.5, 2, 1, 1],
        [2, 3, 2, 3, 3, 4, 4, 4, 2, 2.5, 1, 4, 2, 4],
        [1, 4, 3, 2, 1, 2.5, 1, 1, 1, 2.5, 2.5, 1, 3, 2],
    ]
)


def test_ranking_of_demsar():
    names = ["C4.5", "m", "cf", "m+cf"]
    parts = [rows_of(ranks, name, higher_is_better=False) for name, ranks in zip(names, DEMSAR, strict=True)]
    (found,) = summary(*parts, confidence=0.9).rankings
    assert found.methods == ("m+cf", "m", "cf", "C4.5")
    np.testing.assert_allclose(found.ranks, [1.964, 2, 2.893, 3.143], atol=5e-4)
    assert found.images == 14
    assert found.critical_difference == pytest.approx(1.12, abs=5e-3)  # q is 2.291 at 0.10
    assert found.cliques == (("m+cf", "m", "cf"), ("cf", "C4.5"))  # C4.5 is told apart from m and m+cf, cf from none
    (stricter,) = summary(*parts, confidence=0.95).rankings
    assert stricter.critical_difference == pytest.approx(1.25, abs=5e-3)  # q is 2.569 at 0.05
    assert stricter.cliques == (("m+cf", "m", "cf", "C4.5"),)


def test_friedman_is_that_of_scipy():
    ranks = scipy.stats.rankdata(np.random.default_rng(0).integers(0, 6, (5, 30)), axis=0)
    chi_squared, p = friedman(ranks)
    assert chi_squared == pytest.approx(scipy.stats.friedmanchisquare(*ranks).statistic, rel=1e-12)
    statistic = 29 * chi_squared / (30 * 4 - chi_squared)
    assert p == pytest.approx(scipy.stats.f.sf(statistic, 4, 4 * 29), rel=1e-12)


def test_friedman_at_its_ends():
    alike = np.tile(np.arange(1.0, 5)[:, None], (1, 9))
    assert friedman(alike) == (27, 0)  # n (k - 1), and no doubt
    assert np.isnan(friedman(np.full((4, 9), 2.5))).all()


def test_ranking_over_images_on_which_all_are_defined():
    (found,) = summary(
        rows_of([3, 3, NAN, 3]), rows_of([2, 2, 9, 2], "rise"), rows_of([1, 5, 5, 1], "saliency")
    ).rankings
    assert found.images == 3
    np.testing.assert_allclose(dict(zip(found.methods, found.ranks, strict=True))["saliency"], 7 / 3)


def test_a_method_without_numbers_takes_no_part():
    rng = np.random.default_rng(0)
    parts = [
        rows_of(rng.normal(size=9), name, metric=m) for name in ("a", "b", "c", "random", "occlusion") for m in "de"
    ]
    empty = [rows_of([NAN] * 9, name, metric=m) for name in ("broken", "constant") for m in "de"]
    without, found = summary(*parts), summary(*parts, *empty)
    assert found.rankings == without.rankings
    assert [each.kendall for each in found.agreements] == [each.kendall for each in without.agreements]
    assert math.isnan(score(found, "broken", metric="d").estimate.value)


def test_methods_that_nothing_tells_apart_are_one_clique():
    (found,) = summary(*(rows_of([1, 1, 1, 1], name) for name in "abc")).rankings
    assert math.isnan(found.p)
    assert found.cliques == (("a", "b", "c"),)


def test_cliques():
    assert rank_cliques(np.array([1.0, 1.5, 2.2, 4.0]), 1.0) == [(0, 1), (1, 2)]
    assert rank_cliques(np.array([1.0, 3.0, 5.0]), 1.0) == []
    assert critical_difference(2, 100, 0.05) == pytest.approx(1.96 / 10, abs=1e-3)


# Agreement


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 7, 20)).astype(float)
    for k in range(20):
        assert kendall_over_methods(a, b)[k] == pytest.approx(
            scipy.stats.kendalltau(a[:, k], b[:, k]).statistic, abs=1e-12
        )
        assert spearman_over_methods(a, b)[k] == pytest.approx(
            scipy.stats.spearmanr(a[:, k], b[:, k]).statistic, abs=1e-12
        )


def test_metrics_agree_in_their_own_directions():
    rng = np.random.default_rng(0)
    parts = []
    for k, name in enumerate("abcd"):
        values = k + 0.01 * rng.random(10)
        parts += [
            rows_of(values, name),
            rows_of(-values, name, metric="deletion", higher_is_better=False),
            rows_of(-values, name, metric="mass"),
            rows_of(values, name, metric="entropy", higher_is_better=None),
        ]
    found = {(each.first, each.second): each for each in summary(*parts, rows_of(rng.random(10), "random")).agreements}
    assert set(found) == {("deletion", "insertion"), ("deletion", "mass"), ("insertion", "mass")}
    assert found["deletion", "insertion"].kendall == found["deletion", "insertion"].spearman == pytest.approx(1)
    assert found["deletion", "mass"].kendall_per_image.value == pytest.approx(-1)
    assert found["deletion", "mass"].methods == 4


def test_agreement_is_over_shared_images_and_methods():
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(size=(2, 4, 10))
    theirs[1, 3] = NAN
    ours[2, 8] = ours[1, 8]
    parts = [rows_of(ours[k], name) for k, name in enumerate("abc")]
    others = [
        [row for row in rows_of(theirs[k], name, metric="mass") if row["image"] != "009"]
        for k, name in enumerate("abcd")
    ]
    (found,) = summary(*parts, *others).agreements
    use = [0, 1, 2, 4, 5, 6, 7, 8]
    taus = [scipy.stats.kendalltau(ours[:3, k], theirs[:3, k]).statistic for k in use]
    assert found.kendall_per_image.value == pytest.approx(np.mean(taus), abs=1e-12)
    assert found.kendall_per_image.groups == 8
    means = [scipy.stats.rankdata(side[:3, use], axis=0).mean(1) for side in (ours, theirs)]
    assert found.kendall == pytest.approx(scipy.stats.kendalltau(*means).statistic)
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(*means).statistic)


def test_two_methods_neither_agree_nor_not():
    parts = [rows_of([1, 2, 3], name, metric=metric) for name in "ab" for metric in ("insertion", "mass")]
    assert summary(*parts).agreements == ()


# Normalised scores


def test_normalised_score():
    noise = np.random.default_rng(0).normal(size=30) * 0.01
    found = summary(
        rows_of(0.5 + noise),
        rows_of(0.2 + noise[::-1], "random"),
        rows_of(0.8 + noise, "occlusion"),
    )
    mean = {name: score(found, name).estimate.value for name in ("gradcam", "random", "occlusion")}
    expected = (mean["gradcam"] - mean["random"]) / (mean["occlusion"] - mean["random"])
    own = score(found, statistic="normalised").estimate
    assert own.value == pytest.approx(expected, rel=1e-12)
    assert own.low < own.value < own.high < own.low + 0.05
    for name, share in (("random", 0), ("occlusion", 1)):
        end = score(found, name, statistic="normalised").estimate
        assert (end.value, end.low, end.high) == (share, share, share)


def test_normalised_score_where_lower_is_better():
    found = summary(
        *(rows_of([v] * 5 + [v + 0.01], name, metric="deletion", higher_is_better=False) for name, v in
          (("gradcam", 0.3), ("random", 0.6), ("occlusion", 0.2)))
    )  # fmt: skip
    normalised = score(found, statistic="normalised")
    assert normalised.estimate.value == pytest.approx(0.75)
    assert normalised.higher_is_better is True


def test_normalised_interval_is_that_of_the_ratio():
    values = np.random.default_rng(0).normal([[0.5], [0.2], [0.9]], 0.3, (3, 40))
    found = summary(*(rows_of(v, name) for name, v in zip(("gradcam", "random", "occlusion"), values, strict=True)))
    drawn = bootstrap(np.arange(40), 500, 0).means(values)
    ratio = combine_statistics(lambda m: ((m[0] - m[1]) / (m[2] - m[1]))[None], drawn)
    own = score(found, statistic="normalised").estimate
    np.testing.assert_allclose([own.low, own.high], bootstrap_intervals(ratio, 0.95)[0][0], rtol=1e-9)


@pytest.mark.parametrize("oracle", [[0.1, 0.9, 0.2, 0.8, 0.5, 0.4], [0.0] * 6])
def test_not_normalised_where_the_oracle_is_not_better_than_random(oracle):
    found = summary(rows_of([0.5] * 6), rows_of([0.5, 0.4, 0.6, 0.5, 0.3, 0.7], "random"), rows_of(oracle, "occlusion"))
    own = score(found, statistic="normalised").estimate
    assert math.isnan(own.value)
    assert own.interval == "none"
    assert found.notes == (
        "insertion on zoo:cnn: not normalised: 'occlusion' is not significantly better than 'random'",
    )
    assert all(not panel.normalised for panel in panels(found))


def test_not_normalised_where_a_control_is_better_than_the_oracle():
    parts = [rows_of(values_near(m), name) for m, name in ((0, "random"), (1, "occlusion"), (2, "rise"))]
    assert score(summary(*parts), "rise", statistic="normalised").estimate.value > 1
    found = summary(*parts, rows_of(values_near(3), "constant"))
    assert math.isnan(score(found, "rise", statistic="normalised").estimate.value)
    told = "insertion on zoo:cnn: not normalised: the control 'constant' is better than the oracle 'occlusion'"
    assert found.notes == (told,)


def test_no_oracle_and_no_control_are_told():
    found = summary(rows_of([1, 2, 3]), rows_of([1, 2, 3], metric="mass", kind="localization"))
    assert {each.statistic for each in found.scores} == {"mean"}
    assert found.notes == (
        "insertion on zoo:cnn: not normalised: rows of 'random' and 'occlusion' are missing",
        "mass on zoo:cnn: not normalised: rows of 'random' and 'truth' are missing",
    )


# Flags and bold


def sanity(value, method, floor=0.2, n=6):
    higher_is_better = registry.metrics()["parameter_randomisation"].higher_is_better
    metric = {"metric": "parameter_randomisation", "kind": "robustness", "higher_is_better": higher_is_better}
    return [{**row, "floor": floor} for row in rows_of([value] * n, method, **metric)]


def test_failed_sanity_checks_are_in_every_table():
    found = summary(
        rows_of([9, 9.1, 9, 9.1, 9, 9.1]),
        rows_of([1, 1.1, 1, 1.1, 1, 1.1], "rise"),
        sanity(0.61, "gradcam"),
        sanity(0.59, "rise"),
    )
    checks = {each.method: each for each in found.sanity_checks}
    assert checks["gradcam"].failed
    assert not checks["rise"].failed
    assert checks["rise"].limit == pytest.approx(0.6)
    assert score(found, metric="insertion").flags == ("fails parameter_randomisation",)
    assert score(found, "rise", metric="insertion").flags == ()
    assert not any(each.best for each in found.scores)  # the winner fails, so that nobody is the best
    for panel in panels(found):
        assert "fails parameter_randomisation" in panel.methods[0].notes
    assert latex(found).count(r"fails parameter\_\allowbreak{}randomisation") == 2


def test_a_method_that_reads_nothing_of_what_changes_fails_although_its_floor_is_as_high():
    found = summary(
        sanity(1.0, "edges themselves", floor=1.0),
        sanity(0.92, "blind to the class", floor=0.94),
        sanity(0.6, "smooth", floor=0.5),
    )
    assert {each.method: each.failed for each in found.sanity_checks} == {
        "edges themselves": True,
        "blind to the class": True,
        "smooth": False,
    }


def test_a_copy_that_is_turned_over_fails_a_sanity_check_and_is_not_ranked_first():
    found = summary(sanity(-1.0, "turned over"), sanity(0.02, "reads the model"), sanity(-0.3, "far from it"))
    assert {each.method: each.failed for each in found.sanity_checks} == {
        "turned over": True,
        "reads the model": False,
        "far from it": False,
    }
    assert not any(each.best for each in found.scores)
    assert not found.rankings


def test_the_oracle_is_not_bold_because_its_score_is_one():
    """Its mean is no better than that of the method below it; 1 has no interval."""
    noisy = np.array([0.2, 0.9, 0.4, 0.7, 0.5, 0.8, 0.3, 0.6])
    found = summary(rows_of(noisy, "occlusion"), rows_of(noisy - 0.05, "gradcam"), rows_of(noisy * 0, "random"))
    assert score(found, "occlusion", statistic="normalised").estimate.value == 1
    assert not any(each.best for each in found.scores if each.statistic == "normalised")
    better = summary(rows_of(noisy, "occlusion"), rows_of(noisy + 9, "gradcam"), rows_of(noisy * 0, "random"))
    assert not any(each.best for each in better.scores if each.statistic == "normalised")  # an only method left
    third = summary(
        *(rows_of(noisy + k, name) for k, name in ((0, "occlusion"), (9, "gradcam"), (1, "rise"))),
        rows_of(noisy * 0, "random"),
    )
    assert [each.method for each in third.scores if each.statistic == "normalised" and each.best] == ["gradcam"]


def test_controls_are_not_compared_with_each_other():
    found = summary(*(rows_of(values_near(k), name) for k, name in enumerate(("random", "centre", "rise", "gradcam"))))
    assert {(each.first, each.second) for each in found.comparisons} == {
        ("centre", "gradcam"),
        ("centre", "rise"),
        ("gradcam", "random"),
        ("gradcam", "rise"),
        ("random", "rise"),
    }


def test_a_method_whose_inverse_is_not_worse_is_told():
    found = summary(
        rows_of([1, 2, 1, 2, 1, 2], "same"),
        rows_of([1, 2, 1, 2, 2, 1], "same", inverted=True),
        rows_of([1, 1, 1, 1, 1, 2], "worse"),
        rows_of([3, 3, 3, 3, 3, 4], "worse", inverted=True),
        rows_of([5, 5, 5, 5, 5, 6], "fine"),
        rows_of([3, 3, 3, 3, 3, 4], "fine", inverted=True),
        rows_of([1, 2, 1, 2, 1, 2], "random"),
        rows_of([1, 2, 1, 2, 2, 1], "random", inverted=True),
    )
    assert score(found, "random").notes == ()  # a control is to fail
    assert score(found, "same").notes == ("no better than its inverse",)
    assert score(found, "worse").notes == ("worse than its inverse",)
    assert score(found, "fine").notes == ()
    panel = panels(found)[0]
    assert [line.notes for line in panel.methods] == [
        (),
        ("insertion: no better than its inverse",),
        ("insertion: worse than its inverse",),
    ]


def values_near(mean, n=20, seed=0):
    return mean + np.random.default_rng(seed).normal(size=n) * 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_bold_only_where_no_interval_overlaps(sign):
    def best(**means):
        parts = [
            rows_of(sign * values_near(mean, seed=k), name, higher_is_better=sign > 0)
            for k, (name, mean) in enumerate(means.items())
        ]
        return [each.method for each in summary(*parts).scores if each.best and each.statistic == "mean"]

    assert best(gradcam=2, rise=1) == ["gradcam"]
    assert best(gradcam=2, rise=2.02) == []
    assert best(gradcam=2, rise=1, centre=2.02) == []  # no better than a control
    assert best(gradcam=2, rise=1, centre=3) == []
    assert best(gradcam=2, rise=1, constant=NAN) == ["gradcam"]
    assert best(gradcam=2) == []  # of one
    assert best(gradcam=2, random=1) == []


def test_bold_needs_images():
    def best(n):
        return any(each.best for each in summary(rows_of([1] * n), rows_of([0] * n, "rise")).scores)

    assert best(6)
    assert not best(5)  # all alike, so that the intervals have no width, but no test could tell


def test_bold_leaves_out_the_truth_and_what_has_no_direction():
    places = {"metric": "mass", "kind": "localization"}
    found = summary(*(rows_of(values_near(m), n, **places) for n, m in (("a", 1), ("b", 2), ("truth", 3))))
    assert [each.method for each in found.scores if each.best and each.statistic == "mean"] == ["b"]
    found = summary(*(rows_of(values_near(m), n, higher_is_better=None) for n, m in (("a", 1), ("b", 2))))
    assert not any(each.best for each in found.scores)
    assert found.rankings == ()


def test_bold_must_hold_on_shared_images_too():
    easy, hard = [10.0] * 9 + [10.1], [1.0] * 9 + [1.1]
    found = summary(rows_of([NAN] * 10 + easy), rows_of(hard + [11.0] * 9 + [11.1], "rise"))
    assert score(found).estimate.low > score(found, "rise").estimate.high
    assert not any(each.best for each in found.scores)


# Tables


@pytest.fixture(scope="module")
def rich_summary():
    rng = np.random.default_rng(0)
    parts = []
    names = ("gradcam", "guided_backprop", "occlusion", "random", "centre")
    for k, name in enumerate(names):
        drop = {"metric": "deletion", "higher_is_better": False, "subsets": [["difficult"]] * 5 + [[]] * 15}
        hit = {
            "metric": "pointing_game",
            "kind": "localization",
            "category": ["cat", "dog"] * 10,
            "subsets": drop["subsets"],
        }
        values = 0.5 - 0.1 * (k < 3) + 0.01 * rng.normal(size=20)
        parts += [
            rows_of(values, name, **drop),
            rows_of(rng.integers(0, 2, 20), name, **hit),
            sanity(0.3 + 0.1 * k, name, n=20),
        ]
        if k < 3:
            parts.append(rows_of(1 - values, name, inverted=True, **drop))
    parts[0][3]["value"] = NAN
    for part in parts:
        for row in part:
            row.update(subsets=drop["subsets"][int(row["image"])], category=hit["category"][int(row["image"])])
    return summary(*parts, rows_of([1] * 20, "truth", **hit))


def test_terminal_tables(rich_summary):
    console = Console(width=160, record=True, file=io.StringIO())
    for each in tables(rich_summary):
        console.print(each)
    text = console.export_text()
    assert "zoo:cnn: faithfulness" in text
    assert "zoo:cnn, difficult: localization" in text
    assert "from random (0) to oracle (1)" in text
    assert "deletion ↓" in text
    assert "pointing_game (class mean) ↑" in text
    assert "19 of 20" in text
    first = text[: text.index("Means over")]
    assert first.index("gradcam") < first.index("occlusion") < first.index("centre") < first.index("random")


def test_labels_are_no_markup():
    parts = [
        rows_of(values_near(k), name, model="[m]", metric=m) for k, name in enumerate("abc") for m in ("[x]", "[y]")
    ]
    found = summary(*parts, rows_of(values_near(5), "[red]", model="[m]", metric="[x]"))
    console = Console(width=160, record=True, file=io.StringIO())
    for each in (*tables(found), *ranking_tables(found), *agreement_tables(found)):
        console.print(each)
    text = console.export_text()
    assert (text.count("[m]: "), text.count("[x]"), text.count("[red]")) == (3, 3, 2)


def test_tables_of_ranks_and_agreement():
    parts = [
        part
        for k, name in enumerate("abc")
        for part in (
            rows_of(values_near([1, 1, 2][k], seed=k), name),
            rows_of(-values_near([1, 1, 2][k], seed=k), name, metric="mass"),
        )
    ]
    found = summary(*parts)
    console = Console(width=160, record=True, file=io.StringIO())
    for each in (*ranking_tables(found), *agreement_tables(found)):
        console.print(each)
    lines = console.export_text().splitlines()
    ranks = {line.split()[0]: line.split()[1:] for line in lines if line.split()[:1] in (["a"], ["b"], ["c"])}
    assert ranks["c"] == ["1.00", "3.00"]  # told apart from both others, by both metrics
    assert all(each[1::2] == ["a", "a"] for each in (ranks["a"], ranks["b"]))
    assert any(line.split()[:2] == ["insertion", "-1.00"] for line in lines)


def test_files_without_records_have_their_columns(tmp_path, rich_summary):
    write_csv(rich_summary, tmp_path / "full")
    write_csv(summary(rows_of([1, 2, 3])), tmp_path / "bare")
    for path in (tmp_path / "full").iterdir():
        header = (tmp_path / "bare" / path.name).read_text().splitlines()[0]
        assert header == path.read_text().splitlines()[0]
    assert len((tmp_path / "bare" / "rankings.csv").read_text().splitlines()) == 1


def test_many_metrics_are_several_tables():
    parts = [rows_of(values_near(k), name, metric=f"metric {m}") for k, name in enumerate("ab") for m in range(12)]
    found = panels(summary(*parts))
    assert [len(panel.columns) for panel in found] == [5, 5, 2]
    assert found[0].title == "zoo:cnn: faithfulness (1 of 3)"
    assert len({column.title for panel in found for column in panel.columns}) == 12
    labels = re.findall(r"\\label\{(.*?)\}", latex(summary(*parts)))
    assert labels == [f"tab:zoo-cnn-faithfulness-{k}-of-6" for k in range(1, 7)]  # two fit into a column
    assert len(re.findall(r"\\label", latex(summary(*parts), "cvpr-text"))) == 2


def test_latex_is_well_formed(rich_summary):
    text = latex(rich_summary)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 0
    for count, body in re.findall(r"\*\{(\d+)\}\{>.*?\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [
            line for line in body.splitlines() if re.search(r"\\\\(\[1pt\])?$", line) and "multicolumn" not in line
        ]
        assert lines
        assert all(len(re.findall(r"(?<!\\)&", line)) == int(count) for line in lines)
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.findall(r"(?<!\\)[_%#]", text)
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0


def test_latex_escapes():
    assert escape_latex("a_b & 5 % {x} #1 $ ~ ^ \\ <|>") == (
        r"a\_b \& 5 \% \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}\textbar{}\textgreater{}"
    )
    found = summary(rows_of([-1.5, -2.5, -3], "a_b&c"), rows_of([1, 2, 3], "50%"))
    assert r"a\_\allowbreak{}b\&c" in latex(found)
    assert "$-$2.3" in latex(found)


def test_bold_in_tables():
    found = summary(rows_of(values_near(2)), rows_of(values_near(1), "rise"))
    assert latex(found).count(r"\textbf") == 1
    (line,) = [line for line in latex(found).splitlines() if r"\textbf" in line]
    assert r"Grad-\allowbreak{}CAM &" in line


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("pdflatex"), reason="needs pdflatex, such as of Debian's texlive-latex-recommended"
)
@pytest.mark.parametrize(("width", "inches"), [("cvpr", 3.25), ("cvpr-text", 6.875), ("neurips", 5.5)])
def test_tables_fit_their_page(width, inches, rich_summary, tmp_path):
    names = ["integrated_gradients", "a plugin_method with_a_long_name", "extraordinarilylongmethodname", "x_1", "rise"]
    parts = [
        rows_of(
            values_near(-k), name, metric=f"metric {m}, with an option=value" if m else "sensitivity_n", model=model
        )
        for k, name in enumerate(names)
        for m in range(8)
        for model in ("zoo:cnn", "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    ]
    notes = [sanity(0.61, "rise"), sanity(0.59, "x_1")]
    columns = r"\twocolumn" if inches != 5.5 else ""
    text = inches if inches == 5.5 else 6.875
    (tmp_path / "paper.tex").write_text(
        rf"""\documentclass[10pt]{{article}}\usepackage[textwidth={text}in,textheight=9in]{{geometry}}
\usepackage{{array,booktabs}}\setlength\columnsep{{0.375in}}\begin{{document}}{columns}
{latex(rich_summary, width)}{latex(summary(*parts, *notes), width)}\end{{document}}"""
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True
    )
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert not re.findall(r"Overfull \\hbox.*|Float too large.*", log)


def test_a_table_is_not_higher_than_a_page_and_names_its_models_and_subset():
    models = ("a", "b", "c", "d")
    parts = [
        rows_of(values_near(k), f"method {k}", model=model, subsets=["small"]) for model in models for k in range(9)
    ]
    captions = re.findall(r"caption\{(.*?)\. ", latex(summary(*parts)))
    assert captions == [f"Faithfulness of {pair}{subset}" for subset in ("", " (small)") for pair in ("a, b", "c, d")]
    labels = re.findall(r"\\label\{tab:(.*?)\}", latex(summary(*parts)))
    assert len(set(labels)) == len(labels) == 4


def test_csv_round_trip(rich_summary, tmp_path):
    files = {path.stem: path for path in write_csv(rich_summary, tmp_path / "tables")}
    assert set(files) == {"scores", "comparisons", "rankings", "agreements", "sanity_checks"}

    def read(name):
        with files[name].open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    for line, each in zip(read("scores"), rich_summary.scores, strict=True):
        assert (line["method"], line["metric"], line["best"]) == (each.method, each.metric, str(each.best))
        assert line["value"] == ("" if math.isnan(each.estimate.value) else repr(each.estimate.value))
        assert int(line["undefined"]) == each.estimate.undefined
    for line, each in zip(read("comparisons"), rich_summary.comparisons, strict=True):
        assert float(line["difference_low"]) == each.difference.low
        assert float(line["superiority"]) == each.superiority
    assert len(read("rankings")) == sum(len(each.methods) for each in rich_summary.rankings)
    assert len(read("sanity_checks")) == len(rich_summary.sanity_checks) == 5


def same(a, b):
    """Equal, NaN being equal to itself."""
    return json.loads(a.to_json()) == json.loads(b.to_json())


def test_json_round_trip(rich_summary, tmp_path):
    rich_summary.save(tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    again = Summary.load(tmp_path / "summary.json")
    assert same(again, rich_summary)
    assert dataclasses.fields(again) == dataclasses.fields(rich_summary)
    assert math.isnan(Summary.from_json(summary(rows_of([1])).to_json()).scores[0].estimate.low)
    with pytest.raises(UnreadableFile, match="not a summary; scores"):
        Summary.from_json(text.replace('"scores": [', '"scores": 1, "other": ['))
    with pytest.raises(UnreadableFile, match="cannot be read"):
        Summary.load(tmp_path / "none.json")


# Rows


def test_the_order_of_rows_is_irrelevant():
    rng = np.random.default_rng(0)
    parts = [
        rows_of(rng.normal(size=9), name, group=[str(k // 2) for k in range(9)], category=list("abcabcabc"), **metric)
        for name in ("gradcam", "rise", "random", "occlusion")
        for metric in ({}, {"metric": "mass", "kind": "localization"})
    ]
    found = summary(*parts)
    rows = [row for part in parts for row in part]
    random.Random(0).shuffle(rows)
    assert same(summary(rows), found)


def test_a_method_does_not_change_with_the_others():
    rng = np.random.default_rng(0)
    rows = rows_of(rng.normal(size=12))
    alone, among = summary(rows), summary(rows, rows_of(rng.normal(size=12), "rise"))
    first, second = (dataclasses.asdict(score(each).estimate) for each in (alone, among))
    assert first.pop("interval") == second.pop("interval") == "BCa"
    assert first == pytest.approx(second, rel=1e-12)


def test_dictionary_columns_and_chunks_read_alike():
    whole = table(rows_of([1, 2, 3, 4]), rows_of([2, 1, 4, 3], "rise"))
    chunked = pa.concat_tables([whole.slice(0, 3), whole.slice(3)])
    encoded = chunked.set_column(1, "method", chunked["method"].dictionary_encode())
    assert same(summarise(encoded, resamples=50), summarise(whole, resamples=50))


def test_models_and_metrics_do_not_mix():
    found = summary(rows_of([1, 1]), rows_of([3, 3], model="zoo:vit"), rows_of([5, 5], metric="mass"))
    assert score(found, model="zoo:cnn", metric="insertion").estimate.value == 1
    assert score(found, model="zoo:vit").estimate.value == 3
    assert score(found, metric="mass").estimate.value == 5
    assert found.comparisons == ()
    assert found.method_options == {"gradcam": "gradcam()"}
    assert found.metric_options == {"insertion": "insertion()", "mass": "mass()"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method_options": "gradcam(relu=False)"}, "method 'gradcam' has different options.*a different label"),
        ({"metric_options": "other"}, "metric 'insertion' has different options"),
        ({"higher_is_better": False}, "different directions in these rows, 'lower is better' and 'higher is better'"),
        ({"kind": "complexity"}, "different kinds"),
        ({}, "2 rows have the same model, method, metric and image"),
        ({"method": "rise", "group": "x"}, "image '000' has different values of 'group'"),
        ({"method": "rise", "category": "cat"}, "different values of 'category' in these rows, None and 'cat'"),
        ({"method": None}, "column 'method' must not contain null, got 1"),
        ({"method": "rise", "image": "007", "subsets": ["all"]}, "subset name 'all' is reserved"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(changed, message):
    rows = rows_of([1, 2, 3])
    options = {"method_options": f"{changed['method']}()"} if "method" in changed else {}
    with pytest.raises(InvalidInput, match=message):
        summary(rows, [{**rows[0], **options, **changed}])


def test_what_cannot_be_summarised_is_refused():
    with pytest.raises(InvalidInput, match="There are no rows to summarise"):
        summary([])
    with pytest.raises(InvalidInput, match="lack the column floor; they have"):
        summarise(table(rows_of([1])).drop_columns(["floor"]))
    with pytest.raises(InvalidInput, match=r"confidence must be between 0 and 1, .* got 1\.5"):
        summary(rows_of([1]), confidence=1.5)
    with pytest.raises(InvalidInput, match=r"resamples must be a positive integer, .* got 0"):
        summary(rows_of([1]), resamples=0)


def test_one_image_of_one_method():
    found = summary(rows_of([0.5], category="cat"), rows_of([1], metric="mass", kind="localization", category="cat"))
    assert score(found, metric="insertion").estimate.value == 0.5
    assert found.comparisons == found.rankings == found.agreements == ()
    assert len(tables(found)) == 2
    assert "0.500" in latex(found)


def test_no_negative_zero_and_no_noise_in_tables():
    found = summary(rows_of([-1e-9, 1e-10, 0, 0, 0, 0]), rows_of([0.3] * 6, "rise"), rows_of([0.1, 0.5] * 3, "b"))
    assert [cell_text(score(found, name), 3)[0] for name in ("gradcam", "rise")] == ["0.000", "0.300"]
    (column,) = panels(summary(rows_of([0.3] * 7))).pop().columns
    assert column.decimals == 3


def test_a_cell_without_any_number_tells_that():
    found = summary(rows_of([float("nan")] * 7), rows_of([0.3, 0.4] * 3 + [0.1], method="rise"))
    assert cell_text(score(found, "gradcam"), 3) == ("-", "0 of 7")
    assert cell_text(None, 3) == ("-", "")


def test_the_caption_tells_what_an_interval_without_width_is():
    varied = rows_of([0.3, 0.4] * 3 + [0.1], method="rise")
    assert "Zero width: all images have the same value" in panels(summary(rows_of([1.0] * 7), varied))[0].caption
    assert "Zero width" not in panels(summary(varied))[0].caption
