r"""
What a class looks like to the model
====================================

**Question**: which image maximises the score of a class?

Activation maximization starts at noise and follows the gradient of the score. The parametrisation of the image (a Fourier spectrum with the
correlation of natural colours) and random shifts, scales and rotations keep it from becoming noise.
"""

from attribkit import Explainer, Unit, gallery, load_model, zoo

model, preprocess = load_model("zoo:cnn")
explainer = Explainer(model)
classes = ("circle", "star", "heart", "crescent")
images = explainer.visualize(list(classes), steps=96)
gallery(images, titles=[f"{name}: {score:.1f}" for name, score in zip(classes, images.responses[-1].tolist())])

# %%
# The scores of real images, for comparison:

import torch
from PIL import Image

scenes = list(zoo.scenes(64))
x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes])
scores = model(x).detach()
for name in classes:
    print(f"{name:9} largest score of 64 scenes: {scores[:, zoo.SHAPES.index(name)].max():.1f}")

# %%
# The same for four channels in the middle of the network:

channels = (0, 5, 11, 17)
images = [explainer.visualize(Unit("layer2", channel), steps=64) for channel in channels]
gallery(images, titles=[f"channel {channel} of layer2" for channel in channels])

# %%
# **What to see**: the images contain white outlines, the sign of the class in this data set, with parts of the shape, and score far
# above any real scene. They show what the model responds to most, not what it usually sees. Channels in the middle of the network
# respond to white lines of one direction, to white rings, and to colours and textures.
