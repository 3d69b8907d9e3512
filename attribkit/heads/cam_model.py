"""A body, and a head whose class scores are means of maps."""

from collections import OrderedDict

from torch import Tensor, nn

from attribkit.core.shapes import Images, LayerMaps
from attribkit.core.spec import ModelSpec

_BY_SPACE = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}


class CAMModel(nn.Module):
    """Class scores that are weighted sums of the means of maps, so that the maps themselves can be so weighted.

    body: images (b, c, *space) to what a layer puts out. head: that to scores (b, classes). layer: the last of the
    body, as the model that it comes from named it. spec: what attribkit's methods should know, labels among it.
    """

    def __init__(self, body: nn.Module, head: nn.Sequential, layer: str, spec: ModelSpec) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.layer = layer
        self.spec = spec

    def forward(self, x: Images) -> Tensor:
        """Class scores, before any softmax."""
        return self.head(self.body(x))  # type: ignore[no-any-return]

    @property
    def classes(self) -> int:
        """How many."""
        return self.head.classifier.out_features  # type: ignore[union-attr,return-value]

    def extra_repr(self) -> str:
        labels = "" if self.spec.labels is None else f", labels={self.spec.labels!r}"
        return f"layer={self.layer!r}, classes={self.classes}{labels}"


class ChannelsFirst(nn.Module):
    """Maps (b, *cells, d) as (b, d, *cells)."""

    def forward(self, maps: Tensor) -> LayerMaps:
        """The last axis made the second."""
        return maps.movedim(-1, 1)


def head(depth: int, axes: int, channels: int, classes: int, *, channels_last: bool) -> nn.Sequential:
    """Convolution 3x3, ReLU, global average pooling and a linear layer (Zhou et al., CVPR 2016, sec. 2).

    depth: channels of the body. axes: of its space. channels: maps before pooling. channels_last: the body's order.
    """
    convolution, pooling = _BY_SPACE[axes]
    layers: list[tuple[str, nn.Module]] = [
        ("convolution", convolution(depth, channels, kernel_size=3, padding=1)),
        ("relu", nn.ReLU()),
        ("pooling", pooling(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(channels, classes)),
    ]
    return nn.Sequential(OrderedDict([("channels_first", ChannelsFirst())] * channels_last + layers))
