"""The same answers on a GPU, on its device from end to end."""

import pytest
import torch
from refusals import ANSWERING

from attribkit import Explainer, load_model, registry, zoo
from attribkit.testing import METHOD_CHECKS, tiny_cnn

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
METHODS = pytest.mark.parametrize("method", ANSWERING.values(), ids=list(ANSWERING))


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@METHODS
def test_method(method, check):
    check(method, tiny_cnn().cuda(), torch.randn(3, 3, 16, 16, device="cuda"))


@pytest.mark.parametrize("model", ["cnn", "vit"])
@METHODS
def test_equals_the_cpu(method, model):
    torch.backends.cudnn.allow_tf32 = False
    if (method.name, model) == ("cam", "vit"):
        pytest.skip("a normalisation stands behind its last maps: refused")
    module = load_model(f"zoo:{model}").model
    x = torch.randn(4, 3, zoo.SIDE, zoo.SIDE)
    expected = Explainer(module).attribute(x, method, target=1).heatmap()
    heatmap = Explainer(module.cuda()).attribute(x.cuda(), method, target=1).heatmap()
    assert heatmap.device.type == "cuda"
    torch.testing.assert_close(heatmap.cpu(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "gradient_rollout"])
def test_attention_equals_the_cpu(method):
    test_equals_the_cpu(registry.methods()[method](), "vit")
