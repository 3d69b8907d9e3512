r"""
A method of your own in twenty lines
====================================

**Question**: how much code does a new method need until it appears in figures, metrics and benchmarks?

A method is a frozen dataclass whose fields are its options, and a function from images to scores. Hooks, batches, devices, the choice of
the layer and of the class are not its task.
"""

from dataclasses import dataclass

import torch
from attribkit import Method, PositiveInt


@dataclass(frozen=True)
class TopChannels(Method):
    """Grad-CAM, without its ReLU, of the channels with the largest contributions to the score."""

    name = "top_channels"
    source = "example of the documentation"
    display_name = "Top channels"

    channels: PositiveInt = 4

    def __call__(self, model, x, target):
        activation, gradient = model.activation_and_gradient(x, target)  # each (b, d, *grid)
        weights = gradient.flatten(2).mean(2)  # (b, d)
        contribution = weights * activation.flatten(2).mean(2)
        least = contribution.topk(min(self.channels, contribution.shape[1]), dim=1).values[:, -1:]
        kept = weights * (contribution >= least)
        return torch.einsum("bd,bd...->b...", kept, activation)[:, None]


# %%
# The conformance suite checks that it leaves the model unchanged, does not depend on the other images of the batch, reads its target,
# puts its map at the right position, and more.

from attribkit.testing import report_conformance

report = report_conformance(TopChannels())
print(str(report).splitlines()[0])

# %%
# It is then used like any other method:

from PIL import Image
from attribkit import Explainer, figure, load_model, zoo

model, preprocess = load_model("zoo:cnn")
scene = zoo.scene(5)
picture = Image.fromarray(scene.image)
x, mask = preprocess(picture)[None], torch.from_numpy(scene.target.mask)[None]
explainer = Explainer(model)
maps = explainer.compare(x, ["gradcam", TopChannels(channels=1), TopChannels(channels=16), "random"])
for each, value in zip(maps, explainer.measure(maps, ["relevance_mass"], mask=mask)[0].values):
    print(f"{each.method!r:40} mass on the object {value.item():.2f}")
figure(maps, pictures=[preprocess.picture(picture)], mask=mask, names=["Grad-CAM", "1 channel", "16 channels", "Random"])

# %%
# **What to see**: the methods share one forward pass. ``attribkit.register(TopChannels)`` adds its name for the process, and
# ``attribkit new method top_channels`` writes a package: :doc:`/plugins`.
