"""Maps at their place on the photograph, against the transform that made the model's input."""

# mypy: allow-untyped-defs

import numpy as np
import pytest
import torch
from PIL import Image

from attribkit import AttribkitError
from attribkit.io import Preprocessing
from attribkit_logging._placement import place_on_photograph

NORMALISATION = {"mean": (0.5,), "std": (0.5,)}


@pytest.mark.parametrize("photograph", [(40, 61), (61, 40), (40, 40), (24, 36)])
@pytest.mark.parametrize(("size", "resize"), [((16, 21), 24), ((17, 17), (20, 33)), ((16, 16), 16)])
def test_the_map_lies_where_the_input_was_cut_out(photograph, size, resize):
    image = Image.fromarray(np.random.default_rng(0).integers(1, 256, photograph, dtype=np.uint8))
    preprocessing = Preprocessing(size, resize, **NORMALISATION)
    cropped = np.asarray(preprocessing.geometry(image)).astype(np.float32)
    placed = place_on_photograph(torch.from_numpy(cropped), photograph, preprocessing)
    resized = np.asarray(preprocessing.geometry.transforms[0](image)).astype(np.float32)
    assert placed.shape == resized.shape
    assert placed.dtype == np.float32
    inside = placed > 0
    assert inside.sum() == cropped.size
    assert np.array_equal(placed[inside], resized[inside])


def test_maps_of_whole_photographs():
    heatmap = torch.randn(4, 6)
    assert np.array_equal(place_on_photograph(heatmap, (4, 6), None), heatmap.numpy())
    assert np.array_equal(place_on_photograph(heatmap.double(), (40, 77), "stretch"), heatmap.numpy())


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (
            None,
            r"The photograph has 40x60 pixels \(height x width\) and the input of the model 16x16: pass preprocessing",
        ),
        ("crop", "preprocessing must be a Preprocessing, 'stretch' or None, got 'crop'"),
        (Preprocessing((20, 20), 20, **NORMALISATION), r"makes inputs of \(20, 20\) .* inputs of \(16, 16\)"),
    ],
)
def test_an_unknown_place_is_refused(placement, message):
    with pytest.raises(AttribkitError, match=message):
        place_on_photograph(torch.zeros(16, 16), (40, 60), placement)
