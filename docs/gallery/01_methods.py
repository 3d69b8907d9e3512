r"""
One image, many methods
=======================

**Question**: where in the image is the evidence for the predicted class, according to methods that work differently?

The embedded CNN classifies the shape with the white outline; the other shapes are distractors with a black outline. A map that reflects
the model should lie on the white-outlined shape.
"""

import torch
from PIL import Image
from attribkit import Explainer, figure, load_model, zoo
from attribkit.methods import RISE

model, preprocess = load_model("zoo:cnn")
scenes = [zoo.scene(seed) for seed in (0, 1)]
photographs = [Image.fromarray(scene.image) for scene in scenes]
x = torch.stack([preprocess(each) for each in photographs])
mask = torch.stack([torch.from_numpy(scene.target.mask) for scene in scenes])

maps = Explainer(model).compare(x, ["gradcam", "layercam", "integrated_gradients", "occlusion", RISE(masks=500)])
figure(maps, pictures=[preprocess.picture(each) for each in photographs], mask=mask,
       titles=[zoo.SHAPES[scene.label] for scene in scenes], smooth=1)

# %%
# **What to see**: all methods find the shape, at different resolutions. The class activation maps have 8x8 grid cells, interpolated
# for display. Integrated gradients have a score for each pixel and concentrate on the white outline, which decides the class.
# Occlusion and RISE have the resolution of their patches and cells. Negative scores, in blue, are evidence against the class.
