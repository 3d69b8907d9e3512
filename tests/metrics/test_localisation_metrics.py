"""Metrics of localisation against closed forms, slow loops and a peer."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from attribkit import AttribkitError, Attribution, ClassLogit, Explainer, GroundTruth, registry
from attribkit._contracts.attribution import resize_map
from attribkit._contracts.metric import Localization
from attribkit._core.errors import InvalidInput
from attribkit._core.ground_truth import as_ground_truth, filled_boxes
from attribkit.methods._gradients import Saliency
from attribkit.metrics import _object_geometry as object_geometry
from attribkit.metrics._localization import (
    BoxIoU,
    EnergyPointingGame,
    LocalizationAUC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
)
from attribkit.metrics._object_geometry import box_overlaps, connected_parts
from attribkit.testing import tiny_cnn
from tests.maps import NAN, check_that_images_do_not_meet, of, same, square

TRUTH = square(4, 4)
EVERY = [
    RelevanceMass(),
    RelevanceRank(),
    TopKIntersection(k=20),
    LocalizationAUC(),
    PointingGame(),
    PointingGame(tolerance=2.5),
    EnergyPointingGame(),
    BoxIoU(boxes="every", threshold=0.6),
]


def peak(row, column, space=(4, 4)):
    heatmap = torch.zeros(space)
    heatmap[row, column] = 1
    return heatmap


def random_case(seed, space=(9, 11), images=4, levels=6):
    """Maps with many ties, and masks."""
    random = np.random.default_rng(seed)
    maps = random.integers(-2, levels, (images, *space)).astype(np.float64)
    masks = random.random((images, *space)) < random.uniform(0.05, 0.4)
    return maps, masks


def measured(metric, maps, masks, pixel=None):
    return metric(of(*maps), GroundTruth(torch.from_numpy(masks), pixel))


def test_the_pointing_game():
    for row, column, expected in ((1, 2, 1.0), (0, 2, 0.0)):
        assert PointingGame()(of(peak(row, column)), TRUTH).item() == expected


def test_the_pointing_game_shares_a_tie():
    constant, row = torch.zeros(4, 4), torch.zeros(4, 4)
    row[1, :] = 1
    assert PointingGame()(of(constant), TRUTH).item() == 4 / 16
    assert PointingGame()(of(row), TRUTH).item() == 0.5
    assert PointingGame(maxima="any")(of(constant), TRUTH).item() == 1
    assert PointingGame(maxima="first")(of(constant), TRUTH).item() == 0  # pixel (0, 0)
    assert PointingGame(maxima="first")(of(constant), square(4, 4, first=0)).item() == 1


def test_a_tie_is_shared_with_the_pixels_that_are_near_enough():
    # 2x2 object: itself, 8 pixels beside it at one pixel, and 4 corners at the root of two
    for tolerance, hits in ((0.5, 4), (1.0, 12), (1.5, 16)):
        assert PointingGame(tolerance=tolerance)(of(torch.zeros(4, 4)), TRUTH).item() == hits / 16


@pytest.mark.parametrize(("closed", "hits"), [(False, 697), (True, 709)])
def test_the_disc_of_15_pixels(closed, hits):
    side, centre = 35, 17
    truth = GroundTruth(torch.zeros(side * side, side, side, dtype=torch.bool))
    truth.mask[:, centre, centre] = True
    maps = torch.eye(side * side).reshape(-1, side, side)
    found = PointingGame(tolerance=15.0, closed=closed, maxima="first")(of(*maps), truth).reshape(side, side)
    assert int(found.sum()) == hits
    for row, column, at_the_rim in ((15, 0, True), (9, 12, True), (12, 9, True), (14, 5, False), (14, 6, None)):
        expected = {True: closed, False: True, None: False}[at_the_rim]
        assert bool(found[centre + row, centre - column]) is expected


def test_the_polygon_of_64_corners_that_stands_for_the_disc():
    """Excitation backprop's: points of 15 pixels along an axis touch it, (9, 12) is as far away and outside."""
    metric = registry.make("pointing_game", PointingGame, preset="excitation_bp")
    side, centre = 35, 17
    truth = GroundTruth(torch.zeros(side * side, side, side, dtype=torch.bool))
    truth.mask[:, centre, centre] = True
    found = metric(of(*torch.eye(side * side).reshape(-1, side, side)), truth).reshape(side, side)
    angles = np.arange(64) * 2 * np.pi / 64
    corners = 15 * np.stack([np.sin(angles), np.cos(angles)], 1)
    edges = np.roll(corners, -1, 0) - corners
    steps = np.stack(np.meshgrid(*[np.arange(side) - centre] * 2, indexing="ij"), -1)
    sides = edges[:, 1] * (steps[..., None, 0] - corners[:, 0]) - edges[:, 0] * (steps[..., None, 1] - corners[:, 1])
    np.testing.assert_array_equal(found.numpy() > 0, (sides >= -1e-9).all(-1))
    assert int(found.sum()) == 701
    assert [found[centre + row, centre + column].item() for row, column in ((15, 0), (9, 12), (14, 5))] == [1, 0, 1]
    constant = replace(metric, maxima="expected")(of(torch.zeros(side, side)), truth[:1])
    assert constant.item() == pytest.approx(701 / side**2)
    strict = replace(metric, closed=False)(of(*torch.eye(side * side).reshape(-1, side, side)), truth)
    assert int(strict.sum()) == 697


def test_a_polygon_is_for_photographs(as_users_run):
    with pytest.raises(InvalidInput, match="corners=64 needs maps"):
        PointingGame(corners=64)(of(torch.zeros(4, 4, 4)), square(4, 4, 4))
    with pytest.raises(InvalidInput, match="corners must be an integer >= 3 or None, got 2"):
        PointingGame(corners=2)


def slow_pointing_game(heatmap, mask, tolerance, closed, maxima, sides):
    points = [p for p in np.ndindex(heatmap.shape) if heatmap[p] == heatmap.max()]
    points = points[:1] if maxima == "first" else points
    hits = []
    for point in points:
        near = [math.sqrt(sum(((a - b) * s) ** 2 for a, b, s in zip(point, q, sides, strict=True)))
                for q in np.ndindex(mask.shape) if mask[q]]  # fmt: skip
        hits.append(any(d <= tolerance if closed else (d < tolerance or d == 0) for d in near))
    return NAN if not mask.any() else float(any(hits)) if maxima == "any" else sum(hits) / len(hits)


@pytest.mark.parametrize("maxima", ["first", "any", "expected"])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("space", [(9, 11), (4, 5, 6)], ids=str)
def test_the_pointing_game_equals_a_loop(maxima, closed, space):
    maps, masks = random_case(0, space)
    masks &= np.random.default_rng(1).random(masks.shape) < 0.15
    masks[3] = False
    pixel = torch.tensor([[0.75, 1.5, 2.0][: len(space)], [3.0] * len(space), [1.0] * len(space), [0.5] * len(space)])
    for tolerance, sides in itertools.product((0.0, 1.0, 1.5, 3.0), (None, pixel)):
        metric = PointingGame(tolerance=tolerance, closed=closed, maxima=maxima)
        rows = [[1.0] * len(space)] * 4 if sides is None else sides.tolist()
        options = (tolerance, closed, maxima)
        expected = [slow_pointing_game(a, m, *options, s) for a, m, s in zip(maps, masks, rows, strict=True)]
        same(measured(metric, maps, masks, sides), expected)


@pytest.mark.parametrize("space", [(9, 11), (4, 5, 6)], ids=str)
def test_few_points_and_many_are_as_near(space, monkeypatch):
    """A window around each point and a map of distances, of every pixel."""
    _, masks = random_case(5, space)
    truth = GroundTruth(torch.from_numpy(masks), torch.rand(4, len(space)) * 2 + 0.3)
    points = torch.ones(masks.shape).nonzero()
    for tolerance in (0.0, 0.7, 2.0, 40.0):
        found = []
        for few in (0, points.numel()):
            monkeypatch.setattr(object_geometry, "_FEW_POINTS", few)
            found.append(object_geometry.is_near_object(truth, points, tolerance, closed=True))
        assert torch.equal(*found)
        assert found[0].any()


def test_presets_of_the_pointing_game():
    torchray = registry.make("pointing_game", PointingGame, preset="torchray")
    assert torchray == PointingGame(tolerance=15.0, closed=False, maxima="first")
    quantus = registry.make("pointing_game", PointingGame, preset="quantus")
    assert quantus(of(torch.zeros(4, 4)), TRUTH).item() == 1  # a constant map always hits


def test_a_pixel_that_is_no_length_is_refused(as_users_run):
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    for pixel in (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.full((2, 2), NAN), torch.ones(2, 3), 2.0):
        with pytest.raises(AttribkitError, match=r"GroundTruth\(pixel=...\)"):
            as_ground_truth(GroundTruth(mask, pixel), torch.zeros(2, 3, 4, 4))


def test_relevance_mass():
    assert RelevanceMass()(of(torch.ones(4, 4)), TRUTH).item() == 0.25
    heatmap = torch.full((4, 4), -5.0)
    heatmap[1, 1], heatmap[0, 0] = 3, 1
    assert RelevanceMass()(of(heatmap), TRUTH).item() == 0.75


def test_no_positive_part_is_no_share():
    maps = torch.full((4, 4), -1.0), torch.full((4, 4), 1e-9), torch.ones(4, 4)
    truth = GroundTruth(TRUTH.mask.expand(3, -1, -1))
    same(RelevanceMass()(of(*maps), truth), [NAN, 0.25, 0.25], 1e-6)
    grid = registry.make("relevance_mass", RelevanceMass, preset="grid_pointing_game")
    same(grid(of(*maps), truth), [0, 0, 0.25])
    same(EnergyPointingGame()(of(maps[0]), TRUTH), [NAN])


def test_a_uniform_map_of_a_grid_of_images_has_a_share_of_each():
    for cells in (2, 3):
        mask = torch.zeros(1, 12, 12, dtype=torch.bool)
        mask[0, : 12 // cells, 12 - 12 // cells :] = True
        assert RelevanceMass()(of(torch.ones(12, 12)), GroundTruth(mask)).item() == pytest.approx(
            1 / cells**2, abs=1e-7
        )


@pytest.mark.parametrize("metric", [RelevanceMass(), RelevanceRank(), LocalizationAUC()], ids=repr)
def test_the_mask_itself_is_perfect_and_its_complement_all_wrong(metric):
    mask = TRUTH.mask[0].double()
    assert metric(of(mask), TRUTH).item() == 1
    assert metric(of(1 - mask), TRUTH).item() == 0


def test_a_uniform_map_is_chance():
    uniform = of(torch.full((4, 4), 0.5, dtype=torch.float64))
    assert LocalizationAUC()(uniform, TRUTH).item() == 0.5
    assert RelevanceRank()(uniform, TRUTH).item() == 0.25
    assert TopKIntersection(k=5)(uniform, TRUTH).item() == 0.25
    assert TopKIntersection(k=5, relative_to_size=True)(uniform, TRUTH).item() == 1


def expected_over_ties(heatmap, mask, k):
    """The mean over many orders of equal values of how many of the first k are on the object."""
    random, flat, inside = np.random.default_rng(0), heatmap.ravel(), mask.ravel()
    orders = [np.lexsort((random.random(flat.size), -flat)) for _ in range(4000)]
    return np.mean([inside[order[:k]].sum() for order in orders])


def test_ranks_count_equal_pixels_by_their_share():
    maps, masks = random_case(3, (5, 6), images=3, levels=3)
    for i in range(3):
        size = masks[i].sum()
        rank = measured(RelevanceRank(), maps[i : i + 1], masks[i : i + 1]).item()
        assert rank * size == pytest.approx(expected_over_ties(maps[i], masks[i], size), abs=0.06)
        top = measured(TopKIntersection(k=7), maps[i : i + 1], masks[i : i + 1]).item()
        assert top * 7 == pytest.approx(expected_over_ties(maps[i], masks[i], 7), abs=0.06)


def test_there_is_no_top_of_more_pixels_than_there_are():
    same(TopKIntersection(k=17)(of(torch.ones(4, 4)), TRUTH), [NAN])
    same(TopKIntersection(k=16)(of(torch.ones(4, 4)), TRUTH), [0.25])


def test_the_area_under_the_curve_counts_pairs():
    maps, masks = random_case(4)
    for heatmap, mask, found in zip(maps, masks, measured(LocalizationAUC(), maps, masks).tolist(), strict=True):
        pairs = [(a > b) + (a == b) / 2 for a in heatmap[mask] for b in heatmap[~mask]]
        assert found == pytest.approx(np.mean(pairs), abs=1e-12)


def test_no_background_is_no_curve():
    everywhere = GroundTruth(torch.ones(1, 4, 4, dtype=torch.bool))
    same(LocalizationAUC()(of(torch.ones(4, 4)), everywhere), [NAN])


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_no_object_is_no_number(metric):
    maps = torch.rand(2, 8, 8)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[1, 2:5, 2:5] = True
    assert metric(of(*maps), GroundTruth(mask)).isnan().tolist() == [True, False]


def test_energy_counts_in_the_box():
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, [0, 1, 2], [0, 1, 2]] = True  # a diagonal is one part: its box is 3x3
    mask[0, 5, 5] = True  # a part of its own
    uniform = of(torch.ones(6, 6))
    assert EnergyPointingGame()(uniform, GroundTruth(mask)).item() == pytest.approx(10 / 36)
    assert RelevanceMass()(uniform, GroundTruth(mask)).item() == pytest.approx(4 / 36)
    same(EnergyPointingGame(max_coverage=0.25)(uniform, GroundTruth(mask)), [NAN])


def test_energy_from_the_smallest_value():
    heatmap = torch.ones(4, 4)
    heatmap[1, 1], heatmap[0, 0] = 4, 2
    assert EnergyPointingGame()(of(heatmap), TRUTH).item() == pytest.approx(7 / 20)
    scorecam = registry.make("energy_pointing_game", EnergyPointingGame, preset="scorecam")
    assert scorecam(of(heatmap), TRUTH).item() == pytest.approx(3 / 4)
    same(scorecam(of(torch.ones(4, 4)), TRUTH), [NAN])


def test_boxes_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    for seed in range(8):
        mask = np.random.default_rng(seed).random((17, 23)) < 0.2
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        expected = sorted((y, y + h, x, x + w, size) for x, y, w, h, size in stats[1:].tolist())
        found = connected_parts(torch.from_numpy(mask))
        rows = [(*place.ravel().tolist(), size) for place, size in zip(found.boxes, found.sizes.tolist(), strict=True)]
        assert sorted(rows) == expected


def told_boxes(*images):
    """Each image's boxes, filled up with NaN."""
    padded = [each + [[NAN] * 4] * (max(map(len, images)) - len(each)) for each in images]
    return torch.tensor(padded)


def test_boxes_that_touch_stay_two():
    """Around the union of these is a third box, which no annotator drew."""
    heatmap = torch.zeros(6, 6)
    heatmap[0:2, 0:4] = 1
    told = told_boxes([[0.0, 0, 4, 2], [2, 2, 6, 6]], [])
    mask = filled_boxes(told, 6, 6)
    assert mask.sum((1, 2)).tolist() == [24, 0]
    mask[1, 0:2, 0:4] = True
    same(BoxIoU()(of(heatmap, heatmap), GroundTruth(mask, boxes=told)), [1, 1])
    same(BoxIoU()(of(heatmap, heatmap), GroundTruth(mask)), [8 / 36, 1])
    energy = torch.ones(6, 6)
    same(EnergyPointingGame()(of(energy, energy), GroundTruth(mask, boxes=told)), [24 / 36, 8 / 36], 1e-6)
    same(EnergyPointingGame()(of(energy, energy), GroundTruth(mask)), [1, 8 / 36], 1e-6)


def test_boxes_are_left_top_right_bottom():
    heatmap = torch.zeros(8, 5)
    heatmap[1:3, 2:5] = 1
    truth = GroundTruth(torch.zeros(1, 8, 5, dtype=torch.bool), boxes=told_boxes([[2.0, 1, 5, 3.5]]))
    truth.mask[0, 1:3, 2:5] = True
    same(BoxIoU()(of(heatmap), truth), [6 / 7.5], 1e-6)
    assert truth[0:1].boxes.tolist() == truth.boxes.tolist()


@pytest.mark.parametrize(
    "boxes",
    [
        torch.zeros(1, 4),
        torch.zeros(2, 1, 4),
        torch.zeros(1, 1, 4).long(),
        told_boxes([[3.0, 0, 1, 2]]),
        [[0, 0, 1, 1]],
    ],
    ids=str,
)
def test_boxes_that_are_none_are_refused(as_users_run, boxes):
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(torch.randn(1, 3, 16, 16), "saliency")
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    with pytest.raises(InvalidInput, match="boxes"):
        explainer.evaluate(attribution, "box_iou", mask=GroundTruth(mask, boxes=boxes))


def test_overlaps_count_pixels():
    random = np.random.default_rng(0)
    boxes = np.sort(random.integers(0, 9, (12, 3, 2)), axis=2)
    boxes[..., 1] += 1
    filled = np.zeros((12, 10, 10, 10), dtype=bool)
    for own, box in zip(filled, boxes, strict=True):
        own[tuple(slice(*axis) for axis in box)] = True
    expected = [[(a & b).sum() / (a | b).sum() for b in filled] for a in filled]
    np.testing.assert_allclose(box_overlaps(boxes, boxes), expected, rtol=1e-12)


def test_the_box_of_the_largest_bright_part_or_of_every_one():
    heatmap = torch.zeros(1, 10, 10)
    heatmap[0, 0:4, 0:4] = 1
    heatmap[0, 7:9, 7:9] = 1
    truth = GroundTruth(torch.zeros(1, 10, 10, dtype=torch.bool))
    truth.mask[0, 6:9, 6:9] = True
    assert BoxIoU()(of(*heatmap), truth).item() == 0
    assert BoxIoU(boxes="every")(of(*heatmap), truth).item() == pytest.approx(4 / 9)
    truth.mask[0, 0:4, 0:3] = True
    assert BoxIoU()(of(*heatmap), truth).item() == pytest.approx(12 / 16)


def test_bright_is_a_share_of_the_range():
    heatmap = -torch.ones(4, 4) * 5
    heatmap[1:3, 1:3] = -3
    heatmap[0, 0] = -4.5  # a quarter of the range
    assert BoxIoU(threshold=0.2)(of(heatmap), TRUTH).item() == pytest.approx(4 / 9)
    assert BoxIoU(threshold=0.3)(of(heatmap), TRUTH).item() == 1
    same(BoxIoU()(of(torch.ones(4, 4)), TRUTH), [NAN])


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_images_do_not_meet(metric):
    check_that_images_do_not_meet(metric)


@pytest.mark.parametrize(
    "metric", [RelevanceRank(), TopKIntersection(k=9), LocalizationAUC(), PointingGame(tolerance=1.0)], ids=repr
)
def test_only_the_order_of_the_pixels_counts(metric):
    maps, masks = random_case(6)
    same(measured(metric, np.exp(maps / 3), masks), measured(metric, maps, masks))


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_a_flipped_picture_has_the_same_number(metric):
    maps, masks = random_case(7)
    flipped = measured(metric, maps[:, :, ::-1].copy(), masks[:, :, ::-1].copy())
    same(flipped, measured(metric, maps, masks), 1e-12)


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_volumes(metric):
    maps, masks = torch.rand(2, 6, 8, 10), torch.zeros(2, 6, 8, 10, dtype=torch.bool)
    masks[0, 1:4, 2:6, 3:8] = masks[1, 0:5, 1:3, 2:4] = True
    assert metric(of(*maps), GroundTruth(masks)).isfinite().all()
    perfect = metric(of(*masks.float()), GroundTruth(masks))
    assert (perfect == 1).all()


@pytest.mark.parametrize("metric", EVERY, ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_other_precisions_have_the_numbers_of_double(metric, dtype):
    model = tiny_cnn().to(dtype)
    attribution = Explainer(model).attribute(torch.randn(8, 3, 16, 16, dtype=dtype), "input_x_gradient", target=1)
    double = replace(attribution, x=attribution.x.double(), scores=attribution.scores.double())
    mask = torch.zeros(8, 16, 16, dtype=torch.bool)
    mask[:, 3:12, 4:15] = True
    values = Explainer(model).evaluate(attribution, metric, mask=mask)
    expected = Explainer(model.double()).evaluate(double, metric, mask=mask)
    assert expected.unique().numel() > 1
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)


def test_options_that_make_no_sense_are_refused(as_users_run):
    for name, options in (
        ("pointing_game", {"tolerance": -1}),
        ("pointing_game", {"tolerance": NAN}),
        ("pointing_game", {"maxima": "last"}),
        ("energy_pointing_game", {"max_coverage": 0}),
        ("top_k_intersection", {"k": 0}),
        ("box_iou", {"threshold": 1.5}),
        ("box_iou", {"boxes": "best"}),
    ):
        with pytest.raises(AttribkitError, match=next(iter(options))):
            registry.make(name, Localization, **options)


def test_they_equal_quantus_where_it_is_right():
    quantus = pytest.importorskip("quantus")
    random = np.random.default_rng(0)
    maps, masks = random.random((6, 12, 12)), random.random((6, 12, 12)) < 0.2
    for ours, theirs in (
        (RelevanceMass(), quantus.RelevanceMassAccuracy),
        (RelevanceRank(), quantus.RelevanceRankAccuracy),
        (LocalizationAUC(), quantus.AUC),
        (PointingGame(maxima="any"), quantus.PointingGame),
    ):
        peer = theirs(disable_warnings=True).evaluate_batch(a_batch=maps[:, None], s_batch=masks[:, None])
        same(measured(ours, maps, masks), peer, 1e-12)
    peer = quantus.TopKIntersection(k=30, concept_influence=True, disable_warnings=True)
    expected = peer.evaluate_batch(a_batch=maps[:, None], s_batch=masks[:, None])
    same(measured(TopKIntersection(k=30, relative_to_size=True), maps, masks), expected, 1e-12)


def test_a_coarse_map_is_resized_once_to_the_photograph():
    scores, mask = torch.randn(5, 1, 7, 7), torch.rand(5, 93, 125) < 0.3
    coarse = Attribution(scores, torch.zeros(5, 3, 32, 32), ClassLogit(0), Saliency())
    fine = Attribution(resize_map(scores, (93, 125)), torch.zeros(5, 3, 93, 125), ClassLogit(0), Saliency())
    for metric in (RelevanceMass(), LocalizationAUC(), PointingGame(maxima="first")):
        same(metric(coarse, GroundTruth(mask)), metric(fine, GroundTruth(mask)), 1e-6)
    assert (PointingGame()(replace(coarse, scores=torch.full((5, 1, 7, 7), 0.3)), GroundTruth(mask)) < 0.5).all()
