r"""
What a grid cell sees: the receptive field
==========================================

**Question**: from which pixels can one cell of a class activation map be computed, and which of them matter?

The theoretical field follows from kernels, strides and padding. The effective field is the gradient of the cell with respect to the pixels
(Luo et al., NeurIPS 2016).
"""

from attribkit import Explainer, load_model
from attribkit.figures import filters, receptive_field

model, preprocess = load_model("zoo:cnn")
explainer = Explainer(model)
for layer in ("layer1", "layer2", "layer3", "layer4"):
    field = explainer.receptive_field(layer)
    print(f"{layer}: theoretical {field.size}, stride {field.stride}, 95 % of the gradient in {field.pixels()} pixels")

# %%
# The field of one cell of ``layer2``; the frame is the theoretical field:

receptive_field(explainer.receptive_field("layer2"))

# %%
# The field of a cell of ``layer4``, which class activation maps of this model read:

receptive_field(explainer.receptive_field("layer4"))

# %%
# The filters of the first convolution, where a field is as large as the kernel:

filters(explainer.filters("conv1"))

# %%
# **What to see**: a cell of the last layer can depend on every pixel of the image, since its theoretical field is larger than the
# image. The gradient is largest in the middle, but 95 % of it is spread over most of the image. A bright cell of a Grad-CAM map is
# therefore not evidence *only* from the square below it: see :doc:`/heatmaps_with_care`.
