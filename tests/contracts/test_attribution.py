"""The result: heatmaps, parts, files, notebooks."""

import pytest
import torch
import torch.nn.functional as F

from attribkit import AttribkitError, Attribution, ClassLogit, Contrast, Counterfactual, Explainer, figure, gallery
from attribkit._contracts.attribution import resize_map
from attribkit.figures import curves, frames
from attribkit.methods._gradcam import GradCAM
from attribkit.testing import tiny_cnn


@pytest.fixture
def attribution():
    return Explainer(tiny_cnn()).attribute(torch.randn(3, 3, 16, 16), "gradcam", target=[0, 1, 2])


def signed(channels=3):
    return Attribution(torch.randn(2, channels, 4, 4), torch.randn(2, 3, 8, 8), ClassLogit(1), GradCAM())


def test_heatmap_reduces_channels_then_resizes():
    result = signed()
    scores = result.scores
    for reduce, expected in (
        ("sum", scores.sum(1)),
        ("sum_of_magnitudes", scores.abs().sum(1)),
        ("largest_magnitude", torch.where(scores.amax(1) >= -scores.amin(1), scores.amax(1), scores.amin(1))),
    ):
        expected = F.interpolate(expected[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(result.heatmap(reduce), expected)


def test_an_unknown_reduction_is_refused(as_users_run):
    with pytest.raises(AttribkitError, match="one of 'sum', 'sum_of_magnitudes', 'largest_magnitude', got 'max'"):
        signed().heatmap("max")


def test_resizing_equals_opencv():
    cv2 = pytest.importorskip("cv2")
    maps = torch.rand(1, 1, 7, 7)
    expected = cv2.resize(maps[0, 0].numpy(), (224, 224), interpolation=cv2.INTER_LINEAR)
    torch.testing.assert_close(resize_map(maps, (224, 224))[0, 0], torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_resizing_in_three_axes():
    maps = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    large = resize_map(maps, (4, 4, 4))
    assert large.shape == (1, 1, 4, 4, 4)
    torch.testing.assert_close(large.mean(), maps.mean())


def test_parts(attribution):
    assert len(attribution) == 3
    one = attribution[-1]
    assert one.target == ClassLogit((2,))
    assert torch.equal(one.scores, attribution.scores[2:])
    assert attribution[1:].target == ClassLogit((1, 2))
    assert [each.target.index for each in attribution] == [(0,), (1,), (2,)]
    with pytest.raises(IndexError, match="image 3 of an attribution of 3"):
        attribution[3]


@pytest.mark.parametrize("target", [[0, 1, 2], 1, Contrast((0, 1, 2), against=3), Counterfactual(2), None])
def test_saved_and_loaded(tmp_path, target):
    before = Explainer(tiny_cnn()).attribute(torch.randn(3, 3, 16, 16), "gradcam", target=target, layer="3")
    before.save(tmp_path / "map.safetensors")
    after = Attribution.load(tmp_path / "map.safetensors")
    assert torch.equal(after.scores, before.scores)
    assert torch.equal(after.x, before.x)
    assert after.target == before.target
    assert repr(after.method) == repr(before.method) == "GradCAM(layer='3', relu=True)"
    assert after.method.name == "gradcam"
    assert after.notes == before.notes
    assert torch.equal(after.heatmap(), before.heatmap())
    assert len(after[1:]) == 2


def test_a_function_as_target_is_remembered_by_its_repr(tmp_path):
    before = Explainer(tiny_cnn()).attribute(torch.randn(1, 3, 16, 16), target=lambda y: y.sum(1))
    before.save(tmp_path / "map.safetensors")
    assert repr(Attribution.load(tmp_path / "map.safetensors").target) == repr(before.target)


@pytest.mark.parametrize("content", [None, b"", b"not a tensor in sight"])
def test_a_file_that_is_no_attribution(tmp_path, content):
    path = tmp_path / "map.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AttribkitError, match="is not a saved attribution"):
        Attribution.load(path)


def test_another_safetensors_file_is_no_attribution(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(AttribkitError, match="is not a saved attribution"):
        Attribution.load(tmp_path / "other.safetensors")


def test_device(attribution):
    moved = attribution.to("meta")
    assert moved.scores.device.type == moved.x.device.type == "meta"
    assert attribution.to("cpu").target == attribution.target


def test_repr_tells_all(attribution):
    text = repr(attribution)
    assert "GradCAM(layer=None, relu=True)" in text
    assert "ClassLogit(index=(0, 1, 2))" in text
    assert "layer='3'" in text or "layer=" in text


def test_notebooks_get_pictures_and_no_script(attribution):
    page = attribution._repr_html_()
    assert page.count("<img") == 3
    assert "GradCAM(layer=None, relu=True)" in page
    assert "<script" not in page
    volume = Attribution(torch.randn(1, 1, 4, 4, 4), torch.randn(1, 1, 8, 8, 8), ClassLogit(1), GradCAM())
    assert volume._repr_html_().count("<img") == 8  # slices of the first axis


@pytest.mark.parametrize("value", [0.3, 1.7, -0.1])
@pytest.mark.parametrize("grid", [1, 7, 14])
def test_a_constant_map_of_any_grid_stays_constant(grid, value):
    for size in ((37, 41), (225, 500)):
        assert resize_map(torch.full((2, 1, grid, grid), value), size).unique().tolist() == [pytest.approx(value)]


def test_a_heatmap_of_another_size_is_resized_once():
    result = signed(channels=1)
    expected = F.interpolate(result.scores, (13, 17), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(result.heatmap(size=(13, 17)), expected)


@pytest.mark.parametrize("name", ["map.png", "map.PDF"])
def test_a_suffix_of_a_picture_writes_the_figure(name, attribution, tmp_path):
    attribution.save(tmp_path / name)
    figure(attribution).save(tmp_path / f"other_{name}")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"other_{name}").read_bytes()


def test_a_clip_is_drawn_as_frames(tmp_path):
    clip = Attribution(torch.rand(1, 1, 4, 8, 8), torch.rand(1, 3, 4, 8, 8), ClassLogit(1), GradCAM())
    clip.save(tmp_path / "clip.svg")
    frames(clip).save(tmp_path / "other.svg")
    assert (tmp_path / "clip.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def test_visualizations_and_curves_are_saved_as_pictures(tmp_path):
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    shown = explainer.visualize([0, 1], size=(3, 16, 16), steps=1)
    shown.save(tmp_path / "units.png")
    (measured,) = explainer.measure(list(explainer.compare(x, ["gradcam", "random"])), ["deletion"])
    measured.save(tmp_path / "curves.png", ["Grad-CAM", "Random"])
    gallery(shown).save(tmp_path / "other_units.png")
    curves(measured, ["Grad-CAM", "Random"]).save(tmp_path / "other_curves.png")
    for name in ("units", "curves"):
        assert (tmp_path / f"{name}.png").read_bytes() == (tmp_path / f"other_{name}.png").read_bytes()
    with pytest.raises(AttribkitError, match="does not have a supported file extension"):
        shown.save(tmp_path / "units.docx")
