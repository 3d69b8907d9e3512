"""Preprocessing equals that of the library which the model comes from."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from skimage import data
from timm.data import create_transform, resolve_model_data_config

from attribkit import AttribkitError, load_model
from attribkit.io._preprocessing import Preprocessing, read_image

PHOTO = Image.fromarray(data.astronaut()[40:460, 10:500])


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv2_100", "convnext_atto", "tf_efficientnet_b0"]
)
def test_equals_timm(name):
    model = timm.create_model(name)
    expected = create_transform(**resolve_model_data_config(model), is_training=False)(PHOTO)
    torch.testing.assert_close(Preprocessing.from_timm(model)(PHOTO), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "swin_t", "efficientnet_b0"])
def test_equals_torchvision(name):
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    torch.testing.assert_close(Preprocessing.from_torchvision(preset)(PHOTO), preset(PHOTO), rtol=0, atol=2e-6)


def test_the_picture_is_what_the_model_sees():
    preprocessing = load_model("zoo:cnn").preprocessing
    x = preprocessing(PHOTO)[None]
    assert np.array_equal(preprocessing.inverse(x)[0], preprocessing.picture(PHOTO))
    assert preprocessing.picture(PHOTO).shape == (128, 128, 3)


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300), (101, 57)])
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((64, 64), 80, (0.5,) * 3, (0.5,) * 3),
        Preprocessing((64, 48), (80, 60), (0.5,) * 3, (0.5,) * 3),
        Preprocessing((64, 64), 64, (0.5,) * 3, (0.5,) * 3),
    ],
)
def test_the_photograph_shows_the_region_of_the_picture(preprocessing, size):
    rng = np.random.default_rng(0)
    blobs = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    picture, photograph = preprocessing.picture(blobs), preprocessing.photograph(blobs)
    assert photograph.shape[0] / photograph.shape[1] == pytest.approx(picture.shape[0] / picture.shape[1], rel=0.02)
    small = Image.fromarray(photograph).resize(picture.shape[1::-1], Image.Resampling.BOX)
    inner = np.s_[2:-2, 2:-2]
    difference = np.abs(np.asarray(small).astype(float) - picture)[inner]
    assert np.median(difference) < 3
    assert difference.mean() < 5


def test_a_photograph_keeps_its_pixels_up_to_a_limit():
    preprocessing = Preprocessing((64, 64), 80, (0.5,) * 3, (0.5,) * 3)
    assert preprocessing.photograph(Image.new("RGB", (400, 500))).shape == (320, 320, 3)
    assert preprocessing.photograph(Image.new("RGB", (400, 500)), max_side=100).shape == (100, 100, 3)
    assert preprocessing.photograph(Image.new("RGB", (4000, 5000))).shape == (1024, 1024, 3)


def test_one_channel():
    preprocessing = Preprocessing((32, 32), 32, (0.5,), (0.5,))
    x = preprocessing(PHOTO)
    assert x.shape == (1, 32, 32)
    assert preprocessing.inverse(x[None])[0].shape == (32, 32, 3)


def test_a_configuration_that_is_not_supported_is_refused():
    model = timm.create_model("resnet18")
    model.pretrained_cfg["crop_mode"] = "border"
    with pytest.raises(AttribkitError, match="crop_mode='border'"):
        Preprocessing.from_timm(model)


def test_images_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    Image.fromarray(np.zeros((20, 40), dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (20, 40)
    assert read_image(tmp_path / "a.jpg").mode == "RGB"


def test_sixteen_bits_are_scaled_and_floats_refused(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "ramp.png")
    pixels = np.asarray(read_image(tmp_path / "ramp.png"))[..., 0]
    assert np.abs(pixels - ramp / 257).max() <= 1
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "ramp.tiff")
    with pytest.raises(AttribkitError, match="values of unknown range"):
        read_image(tmp_path / "ramp.tiff")


@pytest.mark.parametrize("wrong", [{"std": (0.0,)}, {"mean": (0.5, 0.5)}, {"resize": 16}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(AttribkitError, match=r"must have a number|must be at least the crop size"):
        Preprocessing(**{"size": (32, 32), "resize": 32, "mean": (0.5,), "std": (0.5,), **wrong})


def test_images_that_cannot_be_read(tmp_path):
    PHOTO.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no image")
    for name, words in (
        ("missing.jpg", "does not exist: check the path"),
        ("cut.jpg", "truncated"),
        ("text.png", "cannot be read as an image"),
    ):
        with pytest.raises(AttribkitError, match=words):
            read_image(tmp_path / name)
    with pytest.raises(AttribkitError, match="cannot be read as an image"):
        read_image(tmp_path)
