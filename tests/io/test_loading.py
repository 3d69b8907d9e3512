"""Models by name, with weights that fit and weights that do not."""

import pytest
import torch
from safetensors.torch import save_file

from attribkit import AttribkitError, load_model
from attribkit.testing import tiny_cnn


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", "torchvision:squeezenet1_1", "zoo:cnn", "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
)
def test_models_by_name(name):
    model, preprocessing = load_model(name)
    assert not model.training
    height, width = preprocessing.size
    assert model(torch.zeros(1, 3, height, width)).shape[0] == 1


def test_arguments_reach_the_constructor():
    assert load_model("timm:resnet10t", num_classes=7).model.num_classes == 7


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("resnet18", {}, ["No kind of model", "timm:NAME"]),
        ("tim:resnet18", {}, ["No kind of model", "timm:NAME"]),
        ("timm:resnet1", {}, ["No timm model is named 'resnet1'", "Did you mean"]),
        ("timm:resnet18.a1_in2k", {}, ["No timm model is named 'resnet18.a1_in2k'", "Did you mean 'resnet18.a1_in1k'"]),
        ("torchvision:resnet1", {}, ["No torchvision model", "Did you mean 'resnet1"]),
        ("torchvision:deeplabv3_resnet50", {}, ["not an image or video classifier"]),
        ("zoo:rnn", {}, ["No zoo model is named 'rnn'", "cnn, vit"]),
        ("zoo:cnn", {"depth": 3}, ["does not take arguments, got depth"]),
        ("timm:resnet10t", {"depht": 3}, ["cannot be created with these arguments", "depht"]),
    ],
)
def test_models_that_are_not_there(name, arguments, words):
    with pytest.raises(AttribkitError) as error:
        load_model(name, **arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_from_files(tmp_path, ending, nested):
    state = load_model("timm:resnet10t", num_classes=3).model.state_dict()
    path = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if nested else state, path)
    torch.manual_seed(1)
    model, _ = load_model("timm:resnet10t", num_classes=3, weights=path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_half_precision_weights_become_float32(tmp_path):
    state = load_model("timm:resnet10t").model.half().state_dict()
    save_file(state, tmp_path / "half.safetensors")
    model, _ = load_model("timm:resnet10t", weights=tmp_path / "half.safetensors")
    assert next(model.parameters()).dtype == torch.float32


def test_weights_that_do_not_fit(tmp_path):
    save_file(load_model("timm:resnet10t", num_classes=3).model.state_dict(), tmp_path / "three.safetensors")
    save_file({"some.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    torch.save(tiny_cnn(), tmp_path / "pickle.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "three.safetensors").read_bytes()[:5000])
    (tmp_path / "cut.pt").write_bytes((tmp_path / "pickle.pt").read_bytes()[:500])
    cases = {
        "three.safetensors": ["do not fit timm:resnet10t", "of another shape", "(3, 512) for (1000, 512)"],
        "other.safetensors": ["do not fit", "missing", "1 not in the model (some.weight)"],
        "pickle.pt": ["objects other than tensors"],
        "list.pt": ["must contain a state_dict(), got list"],
        "cut.safetensors": ["cannot be read as weights"],
        "cut.pt": ["cannot be read as weights"],
        "missing.pt": ["Weights file", "does not exist"],
    }
    for name, words in cases.items():
        with pytest.raises(AttribkitError) as error:
            load_model("timm:resnet10t", weights=tmp_path / name)
        assert all(word in str(error.value) for word in words), f"{name}: {error.value}"


def test_weights_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def unreachable(*_, **__):
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.create_model", unreachable)
    for name, pretrained in (("timm:resnet10t", True), ("hf-hub:nobody/nothing", False)):
        with pytest.raises(AttribkitError, match=r"(?s)could not be downloaded.*no route to the hub.*weights="):
            load_model(name, pretrained=pretrained)
