"""Attributions made of maps that a test chose, and what holds for every metric of single images."""

import copy

import torch
from torch import nn

from attribkit import Attribution, ClassLogit, Explainer, GroundTruth
from attribkit.methods._gradients import Saliency
from attribkit.testing import tiny_cnn

NAN = float("nan")


def of(*maps):
    """An attribution of images that have these maps."""
    scores = torch.stack([torch.as_tensor(each) for each in maps])[:, None]
    return Attribution(scores, torch.zeros(len(maps), 3, *scores.shape[2:]), ClassLogit(0), Saliency())


def square(*space, first=1, last=3):
    """The truth of one image: an object from the first to before the last pixel of each axis."""
    mask = torch.zeros(1, *space, dtype=torch.bool)
    mask[(0, *(slice(first, last) for _ in space))] = True
    return GroundTruth(mask)


def same(found, expected, tolerance=0.0):
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def check_that_images_do_not_meet(metric, method="input_x_gradient"):
    """The number of an image is the same alone, in a batch of 3 or 16, in chunks, and among reversed neighbours."""
    model, x = tiny_cnn().double(), torch.randn(16, 3, 16, 16, dtype=torch.float64)
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    for i in range(16):
        mask[i, i % 5 : i % 5 + 6, 3 : 8 + i % 4] = True

    def values(images, batch_size="auto"):
        explainer = Explainer(model, batch_size=batch_size)
        attribution = explainer.attribute(x[images], method)
        return explainer.evaluate(attribution, metric, mask=mask[images])

    whole = values(slice(None))
    assert whole.unique().numel() > 1
    for found, images in (
        (values(slice(None), 1), slice(None)),
        (values(slice(None), 3), slice(None)),
        (values(list(range(15, -1, -1))), list(range(15, -1, -1))),
        (values(slice(4, 7)), slice(4, 7)),
        *((values(slice(i, i + 1)), slice(i, i + 1)) for i in (0, 5, 15)),
    ):
        torch.testing.assert_close(found, whole[images], rtol=1e-7, atol=1e-9, equal_nan=True)


def sensitive_cnn():
    """A classifier of 16x16 images whose every pixel moves the scores by more than bfloat16 rounds them."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))


def check_precision(metric, dtype, relative, absolute=0.0, method="input_x_gradient"):
    """The numbers are those in double of the same images and weights, and differ between images."""
    model, x = sensitive_cnn().bfloat16(), torch.randn(8, 3, 16, 16).bfloat16()  # which every precision has

    def values(dtype):
        explainer = Explainer(copy.deepcopy(model).to(dtype))
        return explainer.evaluate(explainer.attribute(x.to(dtype), method, target=1), metric).double()

    expected = values(torch.float64)
    assert expected.unique().numel() > 1
    torch.testing.assert_close(values(dtype), expected, rtol=relative, atol=absolute)
