r"""
Deletion and insertion curves
=============================

**Question**: how fast does the model lose the class if the pixels that a map marks as important are removed, and how fast does it find the
class if they are shown?

Deletion replaces pixels in the order of the map, insertion adds them to an empty image. A map that reflects the model gives a low
deletion curve and a high insertion curve. The control ``random`` shows what a map without information gives.
"""

import torch
from PIL import Image
from attribkit import Explainer, load_model, zoo
from attribkit.figures import curves
from attribkit.metrics import Deletion, Insertion

model, preprocess = load_model("zoo:cnn")
scenes = list(zoo.scenes(8))
x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes])
explainer = Explainer(model)

names = ["gradcam", "integrated_gradients", "occlusion", "random"]
maps = explainer.compare(x, names)
results = explainer.measure(maps, [Deletion(steps=10), Insertion(steps=10)])
curves(results, ["Grad-CAM", "Integrated gradients", "Occlusion", "Random"], width="cvpr-text")

# %%
# The areas under the curves, averaged over the images:

for result in results:
    print(result.metric.name, {name: f"{value:.2f}" for name, value in zip(names, result.values.mean(1).tolist())})

# %%
# **What to see**: all methods beat the random map clearly in both metrics: a tenth of the pixels decides the class. The bands are
# bootstrap intervals over the images. Those of the three methods overlap, so eight images do not separate them.
