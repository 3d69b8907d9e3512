r"""
A failing sanity check
======================

**Question**: does a map depend on what the model has learned?

The check of Adebayo et al. (NeurIPS 2018) replaces the weights by random numbers, layer by layer from the output to the input. A map
that explains the model must change. Guided backpropagation hardly does: it shows edges of the image.
"""

import copy

import torch
from PIL import Image
from attribkit import Explainer, figure, load_model, zoo

model, preprocess = load_model("zoo:cnn")
scenes = [zoo.scene(seed) for seed in range(8)]
x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes])
labels = [scene.label for scene in scenes]


def randomised(names):
    """A copy of the model whose weights in these parts are random, of the same size."""
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    for name in names:
        for parameter in getattr(other, name).parameters():
            if parameter.ndim > 1:
                parameter.data = torch.randn_like(parameter) * parameter.pow(2).mean().sqrt()
    return other


# %%
# The maps for the trained model, for a random classifier, and with more and more random layers:

stages = {"trained": [], "classifier": ["fc"], "+ layer4": ["fc", "layer4"], "+ layer3": ["fc", "layer4", "layer3"]}
maps = {
    method: [Explainer(randomised(names)).attribute(x[:1], method, target=labels[:1]) for names in stages.values()]
    for method in ("guided_backprop", "gradcam")
}
picture = [preprocess.picture(Image.fromarray(scenes[0].image))]
figure(maps["guided_backprop"], pictures=picture, names=list(stages), titles=["Guided backprop"])

# %%
#

figure(maps["gradcam"], pictures=picture, names=list(stages), titles=["Grad-CAM"])

# %%
# The metric ``parameter_randomisation`` does this for all layers and several images. Its details contain the rank correlation of the
# maps' magnitudes with those of the trained model after each stage. The control ``edges``, which does not depend on the model, stays
# at 1.

import matplotlib.pyplot as plt
from attribkit.metrics import ParameterRandomisation

explainer = Explainer(model)
check = ParameterRandomisation(magnitudes=True, stages=5)
fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
for method in ("edges", "guided_backprop", "saliency", "gradcam"):
    attribution = explainer.attribute(x, method, target=None if method == "edges" else labels)
    (result,) = explainer.measure([attribution], [check])
    similarity = result.details["similarity"][0].nanmean(0)  # (stages,)
    ax.plot(range(len(similarity) + 1), [1, *similarity.tolist()], marker="o", label=method)
ax.set(xlabel="stages with random weights, from the output to the input", ylabel="rank correlation", ylim=(-0.05, 1.05))
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

# %%
# **What to see**: with random upper layers guided backpropagation still shows the outline of the star, as for the trained model, and
# its correlation falls only when the lower layers become random, too. The maps of Grad-CAM change at the first stage. A plausible map
# of guided backpropagation is therefore not evidence of what the model has learned: most of it comes from the image and the first
# layers.
