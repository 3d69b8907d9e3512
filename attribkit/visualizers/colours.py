"""The colours of natural images, as coordinates that do not depend on each other."""

from jaxtyping import Float
from torch import Tensor

# Principal components of the RGB values of ImageNet's training pixels, 0 to 1: the statistics behind the colour
# augmentation of Krizhevsky et al., NeurIPS 2012, sec. 4.1, in the numbers of Facebook AI Research's fb.resnet.torch
# (2016, datasets/imagenet.lua). Columns: lightness, blue against yellow, green against red and blue.
_VARIANCES = (0.2175, 0.0188, 0.0045)
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def natural_colours(like: Tensor) -> Float[Tensor, "3 3"]:
    """What turns independent numbers of variance 1 into red, green and blue as natural images mix them.

    Scaled such that the three have a mean variance of 1; like: tells device and precision.
    """
    mixing = like.new_tensor(_COMPONENTS) * like.new_tensor(_VARIANCES).sqrt()
    return mixing / mixing.square().sum().div(3).sqrt()
