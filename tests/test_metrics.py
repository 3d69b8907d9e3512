"""Metrics against closed forms."""

import torch

from attribkit import Attribution, ClassLogit, Truth
from attribkit.methods.gradcam import GradCAM
from attribkit.metrics.pointing_game import PointingGame
from attribkit.metrics.relevance_mass import RelevanceMass

MASK = torch.zeros(1, 4, 4, dtype=torch.bool)
MASK[0, 1:3, 1:3] = True
TRUTH = Truth(MASK)


def of(heatmap):
    return Attribution(heatmap[None, None], torch.zeros(1, 3, 4, 4), ClassLogit(0), GradCAM())


def test_pointing_game():
    for row, column, expected in ((1, 2, 1.0), (0, 2, 0.0)):
        heatmap = torch.zeros(4, 4)
        heatmap[row, column] = 1
        assert PointingGame()(of(heatmap), TRUTH).item() == expected


def test_pointing_game_shares_a_tie():
    assert PointingGame()(of(torch.zeros(4, 4)), TRUTH).item() == 4 / 16
    heatmap = torch.zeros(4, 4)
    heatmap[1, :] = 1
    assert PointingGame()(of(heatmap), TRUTH).item() == 0.5


def test_relevance_mass():
    assert RelevanceMass()(of(torch.ones(4, 4)), TRUTH).item() == 0.25
    heatmap = torch.full((4, 4), -5.0)
    heatmap[1, 1], heatmap[0, 0] = 3, 1
    assert RelevanceMass()(of(heatmap), TRUTH).item() == 0.75
    assert RelevanceMass()(of(torch.full((4, 4), -1.0)), TRUTH).item() == 0.0
