r"""
A CAM head on a frozen model
============================

**Question**: how does a model without global average pooling get an exact class activation map?

``cam_head`` copies the model up to its last map and adds the head of Zhou et al. (CVPR 2016); ``train_head`` trains only the head. The
body here is the embedded CNN, stopped at its third stage, and the new task has two classes: does the marked shape have corners?
"""

import torch
from PIL import Image
from attribkit import Explainer, cam_head, figure, load_model, train_head, zoo

body, preprocess = load_model("zoo:cnn")
CORNERS = {"square", "triangle", "star", "cross"}


def batch(seeds):
    """Images and classes (1 with corners) of the scenes with these seeds."""
    scenes = [zoo.scene(seed) for seed in seeds]
    x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes])
    return x, torch.tensor([int(zoo.SHAPES[scene.label] in CORNERS) for scene in scenes])


model = cam_head(body, ("round", "corners"), channels=32, layer="layer3")
loader = [batch(range(start, start + 32)) for start in range(1000, 1160, 32)]
history = train_head(model, loader, epochs=5, learning_rate=5e-3, validation=[batch(range(2000, 2064))])
print(f"accuracy on 64 new scenes: {history.epochs[-1].validation:.0%}")

# %%
# The head is exact: the mean of the map, plus the bias, is the score.

x, labels = batch(range(3))
explainer = Explainer(model)
cam = explainer.attribute(x, "cam", target=labels.tolist())
pictures = [preprocess.picture(Image.fromarray(zoo.scene(seed).image)) for seed in range(3)]
mask = torch.stack([torch.from_numpy(zoo.scene(seed).target.mask) for seed in range(3)])
maps = [cam, explainer.attribute(x, "occlusion", target=labels.tolist())]
figure(maps, pictures=pictures, mask=mask, titles=[model.spec.labels[label] for label in labels.tolist()])

# %%
# **What to see**: the map of the class lies on the marked shape or on a part of it, although the frozen body was trained for other
# classes. Negative scores are evidence for the other class. The new model explains itself and not the original one; look at its
# accuracy before its maps.
