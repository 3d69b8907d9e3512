"""Laws of the maps of real architectures: names of layers, single images, and the positions of cells."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from attribkit import Explainer

pytestmark = pytest.mark.usefixtures("as_users_run")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMED, SINGLE, PLACED = (
    "gradcam, layer by its name",
    "gradcam and saliency, image by image",
    "gradcam, position",
)
FAMILIES = {  # a small architecture of each
    "timm": """
        test_byobnet convit_tiny test_convnext cpubone_nano csatv2 cs3darknet_focus_s cspnext_tiny
        deit_tiny_patch16_224 dla46x_c edgenext_xx_small efficientformerv2_s0 test_efficientnet
        efficientvim_m1 efficientvit_b0 efficientvit_m0 fasternet_t0 fastvit_t8 ghostnet_050 hardcorenas_b
        hgnetv2_b0 iformer_t inception_next_atto lcnetv2_small levit_128s test_mambaout test_coatnet
        poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050 mobilevit_xxs test_nfnet pit_ti_224 pvt_v2_b0
        regnetx_002 repghostnet_050 resnest14d test_resnet resnetv2_18 legacy_seresnet18 shvit_s1 starnet_s050
        swiftformer_xs visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos ese_vovnet19b_slim_dw
        xcit_nano_12_p8_224
    """,
    "torchvision": """
        mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 squeezenet1_1 regnet_x_400mf regnet_y_400mf resnet18
        efficientnet_b0 lraspp_mobilenet_v3_large
    """,
}
SMALL = [f"{library}/{name}" for library, names in FAMILIES.items() for name in names.split()]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def found(model, side=32):
    from coverage_laws import laws

    return {name: cell.status for name, cell in laws(Explainer(model), torch.randn(1, 3, side, side), lambda x: {})}


def convolutions(*layers):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 4, 4), *layers, nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


class Centred(nn.Module):
    """Features less their mean over the batch."""

    def forward(self, x):
        return x - x.mean(0) * (len(x) > 1)


class Everywhere(nn.Module):
    """Features made of all cells alike."""

    def forward(self, x):
        return x * 1e-3 + x.square().mean((1, 2, 3), keepdim=True)


def test_a_plain_network_keeps_the_laws():
    assert found(convolutions()) == {NAMED: "ok", SINGLE: "ok", PLACED: "ok"}


def test_a_model_that_depends_on_the_batch_must_say_so(monkeypatch):
    assert found(convolutions(Centred()))[SINGLE] == "ok"
    compare = Explainer.compare
    monkeypatch.setattr(
        Explainer, "compare", lambda *args, **options: [replace(each, notes=()) for each in compare(*args, **options)]
    )
    assert found(convolutions(Centred()))[SINGLE] == "wrong"


def test_cells_that_all_see_the_same_have_no_position():
    assert found(convolutions(Everywhere()))[PLACED] == "not judged"


@pytest.mark.parametrize("change", [lambda maps: maps.flip(3), lambda maps: maps.mT, lambda maps: maps.roll(8, 2)])
def test_gradients_that_lie_elsewhere_than_the_cells_are_found(change, monkeypatch):
    attribute = Explainer.attribute

    def changed(self, x, method="gradcam", **options):
        attribution = attribute(self, x, method, **options)
        if method == "saliency":
            object.__setattr__(attribution, "scores", change(attribution.scores))
        return attribution

    monkeypatch.setattr(Explainer, "attribute", changed)
    assert found(convolutions())[PLACED] == "wrong"


def test_a_name_that_means_another_layer_is_found(monkeypatch):
    attribute = Explainer.attribute

    def renamed(self, x, method="gradcam", **options):
        return attribute(self, x, method, **options | ({"layer": "0"} if options.get("layer") else {}))

    monkeypatch.setattr(Explainer, "attribute", renamed)
    assert found(convolutions())[NAMED] == "wrong"


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_architecture_of_each_family_keeps_the_laws(name):
    from coverage_laws import laws
    from coverage_models import architectures, initialise

    library, name = name.split("/")
    (architecture,) = (each for each in architectures(every=False) if (each.library, each.name) == (library, name))
    model = architecture.make()
    size = architecture.size(model)
    model, x = initialise(model, size), torch.randn(1, *size)
    cells = dict(laws(Explainer(model), x, architecture.question))
    assert {
        law: (cell.status, cell.text) for law, cell in cells.items() if cell.status not in ("ok", "not judged")
    } == {}
    assert [law for law, cell in cells.items() if cell.status == "not judged"] in ([], [PLACED])
