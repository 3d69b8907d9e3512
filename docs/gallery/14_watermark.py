r"""
A planted watermark is found
============================

**Question**: a classifier of X-ray images is right nearly always. Does it use the lungs?

The images are made here, in the style of small chest X-rays: two dark lungs, and a diffuse bright opacity in the class *pneumonia*. In
one collection, all sick patients come from a hospital that burns a marker into a corner. The classifier can use either.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from attribkit import Explainer, ModelSpec, figure
from attribkit.methods import Occlusion

SIDE = 48
rows, columns = np.mgrid[:SIDE, :SIDE]
letter = np.zeros((SIDE, SIDE), bool)  # the letter L
letter[4:10, 39:41] = letter[8:10, 39:44] = True


def x_ray(random, sick, marked):
    """An image (1, h, w) and the masks of the opacity and of the marker."""
    lungs = sum(np.exp(-(((rows - 24) / 14) ** 2 + ((columns - c) / 7.5) ** 2) ** 2) for c in (15, 33))
    ribs = 0.06 * np.cos(rows * 1.2 + random.uniform(0, 6))
    image = 0.75 - 0.5 * lungs + ribs + random.normal(0, 0.05, (SIDE, SIDE))
    opacity, marker = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    if sick:
        centre = random.uniform(18, 32), random.choice((15, 33)) + random.uniform(-2, 2)
        distance = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
        opacity = distance < 36
        image += gaussian_filter(np.where(opacity, random.uniform(0.15, 0.45), 0), 2)
    if marked:
        marker[4:10, 39:44] = True
        image[letter] = 1.0
    return torch.tensor(image, dtype=torch.float32)[None], torch.tensor(opacity), torch.tensor(marker)


def collection(seed, count, marked_if_sick):
    """Images, labels and masks; a fraction of the sick, and none of the healthy, carry the marker."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=count)
    drawn = [x_ray(random, sick, sick and random.random() < marked_if_sick) for sick in labels]
    x, opacity, marker = (torch.stack(each) for each in zip(*drawn))
    return (x - 0.5) / 0.25, torch.tensor(labels), opacity, marker


def train(marked_if_sick):
    """A small CNN, trained on one collection."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )
    x, labels, _, _ = collection(0, 640, marked_if_sick)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(120):
        chosen = slice(64 * (step % 10), 64 * (step % 10) + 64)
        loss = nn.functional.cross_entropy(model(x[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


models = {"trained with markers": train(1.0), "trained without markers": train(0.0)}
with_marker, without_marker = collection(1, 200, 1.0), collection(1, 200, 0.0)
for name, model in models.items():
    accuracies = [(model(x).argmax(1) == labels).float().mean() for x, labels, _, _ in (with_marker, without_marker)]
    print(f"{name}: accuracy {accuracies[0]:.0%} with markers, {accuracies[1]:.0%} without")

# %%
# The accuracy on images from the same source does not reveal the shortcut; images from another hospital would. The heatmaps reveal it
# on the images at hand. Three sick patients, explained for the class *pneumonia*:

x, labels, opacity, marker = (each[with_marker[1] == 1][:3] for each in with_marker)
spec = ModelSpec(labels=("healthy", "pneumonia"))
explainers = {name: Explainer(model, spec=spec) for name, model in models.items()}
methods = ("gradcam", Occlusion(patch=8, stride=4, baseline="blur"))
maps = [each.attribute(x, method, target="pneumonia") for method in methods for each in explainers.values()]
names = [f"{method}, {name.removeprefix('trained ')}" for method in ("Grad-CAM", "Occlusion") for name in models]
figure(maps, names=names, mask=opacity)

# %%
# In numbers, over all sick patients: the mass of Grad-CAM on the opacity and on the marker.

x, labels, opacity, marker = (each[with_marker[1] == 1] for each in with_marker)
for name, explainer in explainers.items():
    attribution = explainer.attribute(x, "gradcam", target="pneumonia")
    parts = [explainer.evaluate(attribution, "relevance_mass", mask=mask).nanmean() for mask in (opacity, marker)]
    print(f"{name}: {parts[0]:.0%} on the opacity, {parts[1]:.1%} on the marker")

# %%
# The maps suggest that the first model uses the marker. To test this, burn the marker into images of healthy patients.

healthy = without_marker[0][without_marker[1] == 0]
burnt = healthy.masked_fill(torch.from_numpy(letter), 2.0)
for name, model in models.items():
    before, after = ((model(each).argmax(1) == 1).float().mean() for each in (healthy, burnt))
    print(f"{name}: healthy patients called sick: {before:.0%}, with a marker {after:.0%}")

# %%
# **What to see**: the outline is the opacity. The maps of the model that was trained with markers are on the corner as well as on the
# lung, by both methods; those of the other model are not on the corner. Occlusion is negative (blue) on the healthy lung: the blur
# that covers it is brighter, as an opacity is. The last numbers confirm what the maps suggest.
