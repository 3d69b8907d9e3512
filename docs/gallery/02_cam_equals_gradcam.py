r"""
CAM equals Grad-CAM, in numbers
===============================

**Question**: what is the relation between a class activation map and Grad-CAM?

If a model ends in global average pooling and one linear layer, the score is the mean of the map :math:`M_c = \sum_k w^c_k f_k` plus the
bias. The gradient of the score with respect to a grid cell of channel :math:`k` is then :math:`w^c_k / Z` for :math:`Z` cells, so that
Grad-CAM without its ReLU is :math:`M_c / Z`. The embedded CNN is such a model.
"""

from PIL import Image
from attribkit import Explainer, figure, load_model, zoo

model, preprocess = load_model("zoo:cnn")
scene = Image.fromarray(zoo.scene(6).image)
x = preprocess(scene)[None]
explainer = Explainer(model)

cam = explainer.attribute(x, "cam")
gradcam = explainer.attribute(x, "gradcam", relu=False)
cells = cam.scores[0].numel()
print(f"{cells} grid cells; largest difference of CAM / {cells} and Grad-CAM: {(cam.scores / cells - gradcam.scores).abs().max():.1e}")

# %%
# The map adds up to the score, except for the bias of the classifier:

target = cam.target.index[0]
print(f"mean of the map plus bias: {cam.scores.mean() + model.fc.bias[target]:.5f}")
print(f"score of the model:        {model(x)[0, target]:.5f}")

# %%
# Both maps and, beside them, Grad-CAM as in the paper, with the ReLU:

maps = [cam, gradcam, explainer.attribute(x, "gradcam")]
figure(maps, pictures=[preprocess.picture(scene)], names=["CAM", "Grad-CAM, no ReLU", "Grad-CAM"], width="cvpr-text")

# %%
# **What to see**: the first two maps are the same picture, since each is divided by its own maximum. Negative scores, in blue, are
# evidence against the class; the ReLU of Grad-CAM removes them.
