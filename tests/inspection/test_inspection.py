"""Filters, feature maps, their figures and `attribkit inspect`."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from attribkit import Explainer, ModelSpec, figures, zoo
from attribkit._core.errors import InvalidInput, UnknownName
from attribkit._inspection.feature_maps import Filters
from attribkit.cli import app
from attribkit.figures._grid import tile_pictures
from attribkit.testing import changes, model_state, tiny_cnn


def test_filters_are_a_copy_of_the_weights():
    model = tiny_cnn()
    before = model_state(model)
    found = Explainer(model).filters("0")
    assert found.layer == "0"
    assert torch.equal(found.weights, model[0].weight)
    assert not found.weights.requires_grad
    found.weights.zero_()
    assert not changes(before, model_state(model))
    assert torch.equal(Explainer(model).filters(model[3]).weights, model[3].weight)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_filters_of_a_transposed_convolution_make_its_output(kind, groups):
    """A unit impulse in one input channel comes out as that channel's part of every filter of its group."""
    layer = kind(4, 6, 3, groups=groups, bias=False)
    weights = Explainer(nn.Sequential(layer)).filters("0").weights
    assert weights.shape == (6, 4 // groups, *layer.kernel_size)
    for channel in range(4):
        x = torch.zeros(1, 4, *(1 for _ in layer.kernel_size))
        x[:, channel] = 1
        group, within = divmod(channel, 4 // groups)
        expected = torch.zeros(6, *layer.kernel_size)
        mine = slice(group * 6 // groups, (group + 1) * 6 // groups)
        expected[mine] = weights[mine, within]
        torch.testing.assert_close(layer(x)[0], expected)


def test_filters_of_a_patch_embedding():
    model = timm.create_model("vit_tiny_patch16_224")
    found = Explainer(model).filters("patch_embed")
    assert found.layer == "patch_embed.proj"
    assert found.weights.shape == (192, 3, 16, 16)


def test_layers_without_filters_are_refused():
    explainer = Explainer(tiny_cnn())
    with pytest.raises(InvalidInput, match=r"'2' does not contain a convolution\. Convolutions of the model: 0, 3\."):
        explainer.filters("2")
    with pytest.raises(UnknownName, match="No layer is named '9'"):
        explainer.filters("9")
    with pytest.raises(InvalidInput, match=r"'' contains 2: 0, 3"):
        explainer.filters("")
    with pytest.raises(InvalidInput, match="is not a layer of this model"):
        explainer.filters(nn.Conv2d(1, 1, 1))


def test_feature_maps_are_what_the_layer_puts_out():
    model = tiny_cnn()
    before, x = model_state(model), torch.linspace(-1, 1, 3 * 3 * 256).reshape(3, 3, 16, 16)
    images = x.clone()
    found = Explainer(model).feature_maps(x, "3")
    assert not changes(before, model_state(model))
    assert torch.equal(x, images)
    assert not found.values.requires_grad
    model.eval()
    with torch.no_grad():
        expected = model[3](model[2](model[1](model[0](x))))
    torch.testing.assert_close(found.values, expected)
    parts = Explainer(model, batch_size=1).feature_maps(x, "3")
    torch.testing.assert_close(parts.values, expected)


def test_an_in_place_operation_does_not_change_what_was_kept():
    model, x = tiny_cnn().eval(), torch.randn(2, 3, 16, 16)
    found = Explainer(model).feature_maps(x, "1")
    assert found.values.min() < 0


def test_the_default_layer_is_that_of_methods():
    explainer, x = Explainer(tiny_cnn()), torch.randn(2, 3, 16, 16)
    found = explainer.feature_maps(x)
    assert found.notes == (explainer.attribute(x, "gradcam").notes[0],)
    assert f"layer={found.layer!r}" in found.notes[0]


def test_feature_maps_of_tokens(vit):
    x = torch.randn(2, 3, 128, 128)
    found = Explainer(vit).feature_maps(x, "blocks.0")
    kept = []
    hook = vit.blocks[0].register_forward_hook(lambda _m, _a, output: kept.append(output))
    with torch.no_grad():
        vit(x)
    hook.remove()
    assert found.values.shape == (2, 96, 8, 8)
    for row, column in ((0, 0), (3, 5), (7, 7)):  # a class token and two registers come first
        torch.testing.assert_close(found.values[:, :, row, column], kept[0][:, 3 + 8 * row + column])


def test_feature_maps_of_volumes_and_of_what_is_no_classifier():
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU())
    assert Explainer(model).feature_maps(torch.randn(2, 1, 6, 8, 8), "1").values.shape == (2, 4, 6, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precisions(dtype):
    values = Explainer(tiny_cnn().to(dtype)).feature_maps(torch.randn(2, 3, 16, 16).to(dtype), "3").values
    assert values.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


def test_a_layer_without_a_grid():
    with pytest.raises(InvalidInput, match="Layer '6' does not have a grid"):
        Explainer(tiny_cnn()).feature_maps(torch.randn(2, 3, 16, 16), "6")


def test_noise_of_the_models_size_stands_for_images():
    explainer = Explainer(tiny_cnn(), spec=ModelSpec(input_size=(3, 16, 16)))
    assert explainer.receptive_field("3").effective.shape == (16, 16)
    with pytest.raises(InvalidInput, match="pass images as x, of shape"):
        Explainer(tiny_cnn()).receptive_field("3")


def test_tiles_are_in_rows_and_whole():
    tiles = [np.full((2, 3, 3), 10 * i, np.uint8) for i in range(5)]
    picture = tile_pictures(tiles)
    levels, counts = np.unique(picture[..., 0], return_counts=True)
    assert levels.tolist() == [0, 10, 20, 30, 40, 255]
    assert len(set(counts[:5])) == 1  # all of one size
    assert picture[0, 0, 0] == 0
    assert (np.diff([np.argwhere(picture[..., 0] == 10 * i)[0].tolist() for i in range(5)], axis=0) >= 0).any(1).all()


def test_filters_are_drawn_each_in_its_own_scale():
    weights = torch.zeros(2, 3, 3, 3)
    weights[0, 0, 0, 0], weights[1, 1, 2, 2] = 1e-3, -5.0
    picture = figures.filters(Filters("conv", weights)).get_axes()[0].get_images()[0].get_array()
    colours = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert colours == {(128, 128, 128), (255, 128, 128), (128, 0, 128), (255, 255, 255)}  # the last is paper


def test_how_many_filters_are_left_out_is_said():
    ax = figures.filters(Filters("conv", torch.randn(100, 16, 3, 3)), max_filters=30).get_axes()[0]
    assert ax.get_title() == "30 of 100 filters"
    picture = ax.get_images()[0].get_array()
    assert (picture[..., 0] == picture[..., 2]).all()  # grey
    with pytest.raises(InvalidInput, match="Only kernels with two spatial axes can be drawn"):
        figures.filters(Filters("conv", torch.randn(4, 1, 3, 3, 3)))


def test_feature_maps_are_drawn_strongest_first():
    found = Explainer(tiny_cnn()).feature_maps(torch.randn(2, 3, 16, 16), "3")
    drawn = figures.feature_maps(found, max_channels=3)
    for row in range(2):
        shown = [int(ax.get_title().split()[1]) for ax in drawn.get_axes()[4 * row + 1 : 4 * row + 4]]
        means = found.values[row].mean((1, 2))
        assert means[shown].tolist() == sorted(means.tolist(), reverse=True)[:3]
    assert drawn._supxlabel.get_text() == "3: the 3 of 6 channels with the largest mean activation"


def test_the_analytic_field_frames_the_effective_one():
    explainer = Explainer(nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 3)))
    found = explainer.receptive_field("1", torch.randn(2, 3, 32, 32))
    drawn = figures.receptive_field(found)
    picture = np.asarray(drawn.get_axes()[0].get_images()[0].get_array())
    white = np.argwhere((picture == 255).all(2))
    (top, bottom), (left, right) = found.box
    assert white.min(0).tolist() == [top - 1, left - 1]
    assert white.max(0).tolist() == [bottom, right]
    assert "7x7 pixels" in drawn._supxlabel.get_text()


def test_volumes_are_not_drawn():
    explainer = Explainer(nn.Sequential(nn.Conv3d(1, 4, 3, padding=1)))
    x = torch.randn(1, 1, 6, 8, 8)
    with pytest.raises(InvalidInput, match="fields with two spatial axes can be drawn, got 3 axes"):
        figures.receptive_field(explainer.receptive_field("0", x))
    with pytest.raises(InvalidInput, match="Only feature maps of images"):
        figures.feature_maps(explainer.feature_maps(x, "0"))


def test_all_in_a_row(cnn):
    explainer, x = Explainer(cnn), torch.randn(1, 3, 128, 128)
    maps, field = explainer.feature_maps(x, "conv1"), explainer.receptive_field("conv1", x)
    titles = [ax.get_title() for ax in figures.inspection(maps, field, explainer.filters("conv1")).get_axes()]
    assert titles == ["image", "64 filters", "the 36 strongest of 64 feature maps", "receptive field of unit 32, 32"]
    assert len(figures.inspection(maps, field).get_axes()) == 3


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


pytestmark = pytest.mark.filterwarnings("default")  # commands show warnings as sentences


def test_inspect(tmp_path):
    output = run("zoo:cnn", "conv1", "-o", tmp_path / "new" / "out.png").output
    for words in ("Conv2d", "64 of 3x7x7 in conv1", "7x7 pixels", "pixel -3, -3", "61..67 by 61..67", "written: "):
        assert words in output
    width, height = Image.open(tmp_path / "new" / "out.png").size
    assert width > 3 * height > 1500  # four panels in a row


def test_inspect_a_photograph_by_the_default_layer(tmp_path):
    Image.fromarray(zoo.scene(3).image).save(tmp_path / "photo.png")
    output = run("zoo:vit", "--image", tmp_path / "photo.png", "-o", tmp_path / "out.svg").output
    assert "the whole image, through attention in 'blocks.0.attn'" in output
    assert "note: layer='blocks.2.norm1'" in output
    assert "<svg" in (tmp_path / "out.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["zoo:cnn", "conv2"], "Did you mean 'conv1'?"),
        (["zoo:cnn", "fc"], "does not have a grid"),
        (["zoo:rnn"], "No zoo model is named 'rnn'"),
        (["zoo:cnn", "--image", "nowhere.png"], "Image 'nowhere.png' does not exist"),
        (["zoo:cnn", "-o", "out.npz"], "does not have a supported file extension"),
        (["zoo:cnn", "--weights", "nowhere.pt"], "Weights file 'nowhere.pt' does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, code=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("attribkit: ")
    assert words in line
