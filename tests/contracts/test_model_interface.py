"""The model interface for algorithms of other libraries: the score as a module, copies without in-place work."""

from dataclasses import dataclass

import captum.attr
import pytest
import torch
from torch import nn

from attribkit import Explainer, Method, PerImageMethod, segment
from attribkit._core.errors import InvalidInput
from attribkit.methods import Occlusion


class Scaled(nn.Module):
    """A CNN with in-place ReLUs whose scores are multiplied by a second input."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 7 * 7, 5)
        )

    def forward(self, x, scale=None):
        scores = self.net(x)
        return scores if scale is None else scores * scale[:, None]


@dataclass(frozen=True)
class Integrated(Method):
    """Integrated gradients of captum, for the whole batch."""

    name = "integrated"
    source = "captum"

    def __call__(self, model, x, target):
        return captum.attr.IntegratedGradients(model.scoring_module(target)).attribute(x, n_steps=8)


@dataclass(frozen=True)
class Lifted(PerImageMethod):
    """DeepLift of captum, image by image."""

    name = "lifted"
    source = "captum"

    def explain(self, model, x, target):
        assert len(x) == 1
        return (
            captum.attr.DeepLift(model.copy_without_inplace().scoring_module(target))
            .attribute(x.clone().requires_grad_())
            .detach()
        )


@pytest.mark.parametrize("targets", [2, [0, 3, 1]])
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_captum_sees_targets_and_other_inputs(targets):
    model, x, scale = Scaled().eval(), torch.randn(3, 3, 16, 16), torch.tensor([1.0, -2.0, 0.5])
    target = torch.tensor(targets) if isinstance(targets, list) else targets
    clean = Scaled().eval()
    clean.load_state_dict(model.state_dict())
    clean.net[1].inplace = False
    oracle = {
        Integrated(): captum.attr.IntegratedGradients(clean).attribute(x, n_steps=8, target=target),
        Lifted(): captum.attr.DeepLift(clean).attribute(x.clone().requires_grad_(), target=target).detach(),
    }
    for method, expected in oracle.items():
        found = Explainer(model).attribute(x, method, target=targets, inputs={"scale": scale}).scores
        torch.testing.assert_close(found, expected * scale[:, None, None, None], rtol=1e-4, atol=1e-6)
    assert model.net[1].inplace


def test_a_function_target_and_the_count_of_images():
    model, x = Scaled().eval(), torch.randn(2, 3, 16, 16)
    explainer = Explainer(model)
    expected = explainer.attribute(x, Integrated(), target=2).scores
    before = explainer.model.image_count
    found = explainer.attribute(x, Integrated(), target=lambda outputs: outputs[:, 2]).scores
    torch.testing.assert_close(found, expected)
    assert explainer.model.image_count - before >= 2 * 8  # the steps of captum


def test_models_that_require_contiguous_maps():
    class Viewed(Scaled):
        def forward(self, x, scale=None):
            maps = self.net[1](self.net[0](x))
            return self.net[3](maps.view(len(maps), -1))  # fails for maps in channels last

    x = torch.randn(1, 3, 16, 16)
    assert Explainer(Viewed()).attribute(x, Integrated(), target=2).scores.shape == x.shape


def test_segments_of_the_user_are_covered_like_superpixels():
    model, x = Scaled().eval(), torch.randn(2, 3, 16, 16)
    labels = torch.zeros(16, 16, dtype=torch.long)
    labels[:, 8:] = 7
    scores = Explainer(model).attribute(x, Occlusion(superpixels=labels), target=1).scores
    for half in (slice(0, 8), slice(8, 16)):
        covered = x.clone()
        covered[..., half] = 0
        drop = (model(x) - model(covered))[:, 1].detach()
        torch.testing.assert_close(scores[..., half], drop[:, None, None, None].expand(2, 1, 16, 8))


@pytest.mark.parametrize(
    "labels", [torch.zeros(8, 16, dtype=torch.long), torch.zeros(3, 16, 16, dtype=torch.long), torch.zeros(16, 16)]
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(InvalidInput, match="The labels of the segments have shape"):
        segment(torch.zeros(2, 3, 16, 16), labels)
