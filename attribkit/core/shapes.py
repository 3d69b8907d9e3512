"""The tensors that cross a boundary: b images of c channels over a space of two axes, or three (video, volumes)."""

from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

Images = Float[Tensor, "b c *space"]  # normalised as the model expects
AnyImages = Float[Tensor, "b ..."]  # the same in the order of axes in which the model takes them
Scores = Float[Tensor, "b k *grid"]  # signed; k is 1 or c; the grid is the method's own resolution
LayerMaps = Float[Tensor, "b d *cells"]  # a layer's d channels on its own grid
Heatmaps = Float[Tensor, "b *space"]  # one number per input pixel
Masks = Bool[Tensor, "b *space"]  # True on the object
PerImage = Float[Tensor, " b"]
Picture = UInt8[ndarray, "h w 3"]  # red, green, blue, for eyes
Pictures = UInt8[ndarray, "*space 3"]  # the same of a clip, (t, h, w, 3), or of a volume, (d, h, w, 3)
