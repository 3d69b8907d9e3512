r"""
Attention beside Grad-CAM
=========================

**Question**: does a transformer attend to what it uses for the class?

Attention weights state from where a token collects values, not what the values are worth for a class. The embedded ViT classifies the same
scenes as the CNN.
"""

import torch
from PIL import Image
from attribkit import Explainer, figure, load_model, zoo
from attribkit.figures import attention

model, preprocess = load_model("zoo:vit")
scenes = [zoo.scene(seed) for seed in (0, 2)]
photographs = [Image.fromarray(scene.image) for scene in scenes]
x = torch.stack([preprocess(each) for each in photographs])
mask = torch.stack([torch.from_numpy(scene.target.mask) for scene in scenes])

explainer = Explainer(model)
maps = explainer.compare(x, ["attention", "attention_rollout", "gradient_rollout", "gradcam", "occlusion"])
figure(maps, pictures=[preprocess.picture(each) for each in photographs], mask=mask,
       titles=[zoo.SHAPES[scene.label] for scene in scenes],
       names=["Attention", "Attention rollout", "Gradient rollout", "Grad-CAM", "Occlusion"])

# %%
# The maps of another class, of a shape with a black outline. The first two methods do not depend on a class:

others = [scene.objects[1].label for scene in scenes]
same = [explainer.attribute(x, each.method, target=others).heatmap().equal(each.heatmap()) for each in maps]
print({each.method.name: equal for each, equal in zip(maps, same)})

# %%
# All layers and heads are at ``explainer.attention(x)``, with the positions of their tokens on the image:

layers = explainer.attention(x)
for layer in layers:
    print(layer.name, tuple(layer.weights.shape), "class token:", tuple(layer.attention_from(0).shape))

# %%
# The attention of the class token to the first image, for each head:

attention(layers, x, query=0, picture=preprocess.picture(photographs[0]))

# %%
# **What to see**: attention finds the marked shape here, and rollout also spreads over the rest of the image, since it is uniform over
# the residual connections. Neither changes with the class, so neither explains why one class was predicted and not another. Gradient
# rollout and Grad-CAM depend on the class. Grad-CAM is partly off the square: in a transformer with a class token the gradient of a
# patch is small and mixed by attention. Occlusion measures the score directly, and is the reference here.
