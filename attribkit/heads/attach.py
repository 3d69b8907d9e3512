"""[heads/cam_model] A body, and a head whose class scores are means of maps.
[heads/attach] A CAM head for a model that has none.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attribkit import registry
from attribkit.core.errors import InvalidInput, UnsupportedModel
from attribkit.core.shapes import Images, LayerMaps
from attribkit.core.spec import ModelSpec
from attribkit.engine.model import HookedModel
from attribkit.heads.body import body_up_to
from attribkit.runs.validation import check_images, unwrap_model
from attribkit.state.hooks import frozen
from attribkit.tracing.layers import Layer

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


_SIZE = (3, 224, 224)  # of the noise, where a model does not say what it was made for
_FACTS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")  # of timm's, that still hold


def cam_head(
    model: nn.Module,
    classes: int | Sequence[str],
    *,
    channels: int = 256,
    layer: str | None = None,
    x: Images | None = None,
) -> CAMModel:
    """A new model: a copy of this one up to its last map of the image, then a head whose scores are means of maps.

    The head is a 3x3 convolution, a ReLU, global average pooling and a linear layer (Zhou et al., CVPR 2016, sec. 2);
    its weights are drawn from PyTorch's random state and know nothing yet: `train_head` trains them. The result is in
    evaluation mode and shares no tensor with the model, which stays as it was.

    classes: their number, or their names in order. channels: maps before pooling; the paper has 1024, four times the
    weights; with a few, the head learns worse. layer: dotted name of the last layer to keep; None is the one that
    `Explainer.layers` chooses, without the pooling that it may end in. x: a few images by which the parts of the model
    are compared; None is noise of the size that the model was made for, 224 pixels where it does not say. Raises
    UnsupportedModel where the layer is no grid (transformers with a class token), or where no part of the model
    computes what the layer does.
    """
    labels, count = _read(classes)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise InvalidInput(f"channels={channels!r} is no number of maps from 1.")
    module = unwrap_model(model)
    hooked = HookedModel(module, registry.model_spec(module))
    images = _images(hooked, x)
    chosen = _layer(hooked, layer, images)
    body = body_up_to(module, chosen, images)
    return _joined(hooked, body, chosen, labels, count, channels)


def _joined(
    hooked: HookedModel, body: nn.Module, layer: Layer, labels: tuple[str, ...] | None, classes: int, channels: int
) -> CAMModel:
    """The body and a new head of the same precision on the same device, with those facts that still hold."""
    last = layer.layout.kind == "channels last"
    depth = layer.shape[-1 if last else 0]
    new = head(depth, len(layer.layout.grid), channels, classes, channels_last=last)
    spec = replace(hooked.spec, layer=None, channels_last=False, labels=labels)
    model = CAMModel(body, new.to(_like(hooked)), layer.name, spec).eval()
    model.zero_grad()  # gradients that the body brought along
    config = getattr(hooked.module, "pretrained_cfg", None)
    if isinstance(config, dict):
        facts = {fact: config[fact] for fact in _FACTS if fact in config}
        model.pretrained_cfg = facts | {"num_classes": classes, "label_names": labels}  # type: ignore[assignment]
    return model


def _images(hooked: HookedModel, x: Tensor | None) -> Tensor:
    """Two images that the model takes; noise where the user gives none."""
    if x is not None:
        check_images(x, hooked)
        return torch.cat([x, x.flip(-1)])[:2]  # one alone is too few for batch normalisation
    size = hooked.spec.input_size or _SIZE
    noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(
        _like(hooked)
    )
    if hooked.spec.input_size is None:
        _check_that_it_runs(hooked, noise)
    return noise


def _check_that_it_runs(hooked: HookedModel, noise: Tensor) -> None:
    try:
        check_images(noise, hooked)
        with frozen(hooked.module), torch.no_grad():
            hooked(noise)
    except Exception as error:
        raise InvalidInput(
            f"What images this model takes is not known, and noise of {_SIZE} is none of them ({error}): pass some, x "
            "of shape (b, c, *space)."
        ) from error


def _layer(hooked: HookedModel, name: str | None, x: Tensor) -> Layer:
    """The layer that is named, or else justified, and can bear a convolution."""
    spec = hooked.spec
    if name is not None:
        hooked.layer(name)  # refuses what is not there
        spec = replace(spec, layer=name)
    with frozen(hooked.module):
        layers = HookedModel(hooked.module, spec).layers(x)
    chosen = next(layer for layer in layers if layer.chosen)
    chosen = _before_pooling(hooked.module, chosen, layers) if name is None else chosen
    if chosen.layout.kind == "tokens":
        raise UnsupportedModel(
            f"Layer {chosen.name!r} is a row of tokens, and the convolution of a CAM head needs a grid: name a layer "
            "that has one by layer=... (Explainer.layers() lists them), or explain the model as it is."
        )
    return chosen


def _before_pooling(model: nn.Module, layer: Layer, layers: Sequence[Layer]) -> Layer:
    """What a row of modules has before the pooling at its end: more cells, as in Zhou et al., sec. 3."""
    row = model.get_submodule(layer.module)
    if not isinstance(row, nn.Sequential) or type(row[-1]).__module__ != nn.MaxPool2d.__module__:
        return layer
    before = f"{layer.module}.{list(row._modules)[-2]}"
    return next((each for each in reversed(layers) if each.module == before), layer)


def _read(classes: Any) -> tuple[tuple[str, ...] | None, int]:
    """The names of the classes, if they have any, and their number."""
    if isinstance(classes, int) and not isinstance(classes, bool):
        labels, count = None, classes
    elif isinstance(classes, Sequence) and not isinstance(classes, str) and all(isinstance(c, str) for c in classes):
        labels, count = tuple(classes), len(set(classes))
        if count < len(labels):
            raise InvalidInput(f"Of the {len(labels)} names of classes only {count} differ: name each class once.")
    else:
        raise InvalidInput(f"classes={classes!r} is neither a number of classes nor their names.")
    if count < 2:
        raise InvalidInput(f"classes={classes!r} leaves nothing to tell apart: give at least two.")
    return labels, count


def _like(hooked: HookedModel) -> Tensor:
    """A tensor of the model's precision on its device."""
    return next(parameter for parameter in hooked.module.parameters() if parameter.is_floating_point())
