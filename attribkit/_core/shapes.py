"""Shapes and dtypes of tensors: b images of c channels with two or three spatial axes (images; video, volumes)."""

from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

Images = Float[Tensor, "b c *space"]  # normalised as the model expects
AnyImages = Float[Tensor, "b ..."]  # images with the axes in the order of the model
Scores = Float[Tensor, "b k *grid"]  # signed; k is 1 or c; grid is the resolution of the method
LayerMaps = Float[Tensor, "b d *cells"]  # d channels of a layer on its grid
Heatmaps = Float[Tensor, "b *space"]  # one score per pixel
Masks = Bool[Tensor, "b *space"]  # True on the object
PerImage = Float[Tensor, " b"]
Picture = UInt8[ndarray, "h w 3"]  # RGB, for display
Pictures = UInt8[ndarray, "*space 3"]  # also of a clip (t, h, w, 3) or a volume (d, h, w, 3)
