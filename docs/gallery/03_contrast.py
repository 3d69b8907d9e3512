r"""
Two objects: evidence for, against, and why not the other
=========================================================

**Question**: an image contains two objects of different classes. Which pixels are evidence for the first, which for the second, and
which decide between them?

The halves of two scenes make one image with two marked shapes. The model was trained on images with one marked shape, and is
uncertain here, as a classifier of cats and dogs would be on a picture with both.
"""

import numpy as np
import torch
from PIL import Image
from attribkit import Contrast, Counterfactual, Explainer, figure, load_model, zoo

model, preprocess = load_model("zoo:cnn")


def marked_shape_inside(seed, left):
    """Whether the box of the marked shape lies in the left or right half."""
    box = zoo.scene(seed).target.box
    return box[2] <= zoo.SIDE // 2 if left else box[0] >= zoo.SIDE // 2


first = next(zoo.scene(seed) for seed in range(3, 100) if marked_shape_inside(seed, left=True))
second = next(zoo.scene(seed) for seed in range(100) if marked_shape_inside(seed, left=False))
half = zoo.SIDE // 2
picture = Image.fromarray(np.concatenate([first.image[:, :half], second.image[:, half:]], axis=1))
x = preprocess(picture)[None]

probabilities = model(x).softmax(1)[0]
a, b = zoo.SHAPES[first.label], zoo.SHAPES[second.label]
print(f"{a}: {probabilities[first.label]:.2f}, {b}: {probabilities[second.label]:.2f}")

# %%
# A target selects the number that is explained. ``Contrast`` is the difference of two scores, ``Counterfactual`` the negated score.

explainer = Explainer(model)
a_or_b = {
    a: first.label,
    b: second.label,
    f"{a}, not {b}": Contrast(first.label, against=second.label),
    f"against {a}": Counterfactual(first.label),
}
maps = [explainer.attribute(x, "gradcam", target=target, relu=False) for target in a_or_b.values()]
figure(maps, pictures=[preprocess.picture(picture)], names=list(a_or_b), scale="shared")

# %%
# **What to see**: evidence for each class is at its own shape, and the other shape has little or negative evidence (blue). The
# contrast shows both at once: positive where the image looks more like the first class, negative where it looks more like the second.
# The counterfactual is the first map with the opposite sign. All maps share one scale, since they come from one method.
