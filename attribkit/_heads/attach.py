"""Attach a CAM head to a model."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attribkit import registry
from attribkit._core.errors import InvalidInput, UnsupportedModel
from attribkit._core.shapes import Images, LayerMaps
from attribkit._core.spec import ModelSpec
from attribkit._engine.model import HookedModel
from attribkit._heads.body import body_up_to
from attribkit._runs.validation import check_images, unwrap_model
from attribkit._state.hooks import frozen
from attribkit._tracing.layers import Layer

_BY_SPACE = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}
_SIZE = (3, 224, 224)  # size of the noise, if the input size of the model is unknown
_KEPT_CONFIG = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")  # timm keys


class CAMModel(nn.Module):
    """A body and a head whose class scores are weighted means of the head's maps.

    The sum of the maps with the weights of a class is its class activation map.

    Args:
        body: Maps images (b, c, *space) to the output of a layer.
        head: Maps that output to scores, (b, classes).
        layer: The last layer of the body, by its name in the original model.
        spec: Description of the model for attribkit's methods, with labels.
    """

    def __init__(self, body: nn.Module, head: nn.Sequential, layer: str, spec: ModelSpec) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.layer = layer
        self.spec = spec

    def forward(self, x: Images) -> Tensor:
        """Compute class scores, before any softmax."""
        return self.head(self.body(x))  # type: ignore[no-any-return]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.head.classifier.out_features  # type: ignore[union-attr,return-value]

    def extra_repr(self) -> str:
        labels = "" if self.spec.labels is None else f", labels={self.spec.labels!r}"
        return f"layer={self.layer!r}, classes={self.classes}{labels}"


class ChannelsFirst(nn.Module):
    """Module that moves channels first: (b, *grid, d) to (b, d, *grid)."""

    def forward(self, maps: Tensor) -> LayerMaps:
        """Move the last axis to the second."""
        return maps.movedim(-1, 1)


def make_head(depth: int, axes: int, channels: int, classes: int, *, channels_last: bool) -> nn.Sequential:
    """Build a 3x3 convolution, ReLU, global average pooling and a linear layer (Zhou et al., CVPR 2016, sec. 2).

    Args:
        depth: Channels of the body.
        axes: Spatial axes of the body.
        channels: Maps before pooling.
        classes: Number of classes.
        channels_last: Whether the body returns channels last.
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


def cam_head(
    model: nn.Module,
    classes: int | Sequence[str],
    *,
    channels: int = 256,
    layer: str | None = None,
    x: Images | None = None,
) -> CAMModel:
    """Build a CAM model: a copy of a model up to its last spatial map, and a head whose scores are means of maps.

    The head is a 3x3 convolution, a ReLU, global average pooling and a linear layer. Its weights are initialized from
    PyTorch's random state and untrained: `train_head` trains them. The result is in evaluation mode and shares no
    tensor with the model, which stays unchanged.

    Args:
        model: The model to copy.
        classes: Number of classes, or their names in order.
        channels: Maps before pooling; the paper has 1024, with four times the weights. With very few, the head learns
            less.
        layer: Dotted name of the last layer to keep; None means the one that `Explainer.layers` chooses, without a
            pooling at its end.
        x: A few images by which the parts of the model are compared; None means noise of the model's input size, or 224
            pixels if that is unknown.

    Returns:
        The new model.

    Raises:
        InvalidInput: If an argument is invalid.
        UnsupportedModel: If the layer is not a grid (transformers with a class token), or no part of the model computes
            the same as the layer.

    Reference:
        Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, sec. 2.

    Example:
        >>> head = cam_head(model, ("corners", "round"), channels=8, layer="layer3")
        >>> Explainer(head).attribute(x, "cam", target="round").scores.shape
        torch.Size([2, 1, 8, 8])
    """
    labels, count = _read_classes(classes)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise InvalidInput(f"channels must be a positive integer, got {channels!r}.")
    module = unwrap_model(model)
    hooked = HookedModel(module, registry.model_spec(module))
    images = _images(hooked, x)
    chosen = _layer(hooked, layer, images)
    body = body_up_to(module, chosen, images)
    return _join(hooked, body, chosen, labels, count, channels)


def _join(
    hooked: HookedModel, body: nn.Module, layer: Layer, labels: tuple[str, ...] | None, classes: int, channels: int
) -> CAMModel:
    """Join the body and a new head of the same precision and device, with the configuration that remains valid."""
    channels_last = layer.layout.kind == "channels last"
    depth = layer.shape[-1 if channels_last else 0]
    new = make_head(depth, len(layer.layout.grid), channels, classes, channels_last=channels_last)
    spec = replace(hooked.spec, layer=None, channels_last=False, labels=labels)
    model = CAMModel(body, new.to(_reference_tensor(hooked)), layer.name, spec).eval()
    model.zero_grad()  # gradients copied with the body
    config = getattr(hooked.module, "pretrained_cfg", None)
    if isinstance(config, dict):
        kept_config = {key: config[key] for key in _KEPT_CONFIG if key in config}
        model.pretrained_cfg = kept_config | {"num_classes": classes, "label_names": labels}  # type: ignore[assignment]
    return model


def _images(hooked: HookedModel, x: Tensor | None) -> Tensor:
    """Return two images that the model accepts; noise if the user passes none."""
    if x is not None:
        check_images(x, hooked)
        return torch.cat([x, x.flip(-1)])[:2]  # batch normalisation needs more than one image
    size = hooked.spec.input_size or _SIZE
    noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(
        _reference_tensor(hooked)
    )
    if hooked.spec.input_size is None:
        _check_noise(hooked, noise)
    return noise


def _check_noise(hooked: HookedModel, noise: Tensor) -> None:
    try:
        check_images(noise, hooked)
        with frozen(hooked.module), torch.no_grad():
            hooked(noise)
    except Exception as error:
        raise InvalidInput(
            f"The input size of this model is unknown, and it does not accept noise of shape {_SIZE} ({error}). Pass "
            "images as x, of shape (b, c, *space)."
        ) from error


def _layer(hooked: HookedModel, name: str | None, x: Tensor) -> Layer:
    """Return the named or default layer, and check that it has a grid."""
    spec = hooked.spec
    if name is not None:
        hooked.layer(name)  # raises if it does not exist
        spec = replace(spec, layer=name)
    with frozen(hooked.module):
        layers = HookedModel(hooked.module, spec).layers(x)
    chosen = next(layer for layer in layers if layer.chosen)
    chosen = _before_pooling(hooked.module, chosen, layers) if name is None else chosen
    if chosen.layout.kind == "tokens":
        raise UnsupportedModel(
            f"Layer {chosen.name!r} returns a sequence of tokens, but the convolution of a CAM head requires a grid. "
            "Choose a layer with a grid using layer=... (see Explainer.layers()), or explain the model without a CAM "
            "head."
        )
    return chosen


def _before_pooling(model: nn.Module, layer: Layer, layers: Sequence[Layer]) -> Layer:
    """Return the layer before a pooling at the end of a sequence: more cells, as in Zhou et al., sec. 3."""
    sequence = model.get_submodule(layer.module)
    if not isinstance(sequence, nn.Sequential) or type(sequence[-1]).__module__ != nn.MaxPool2d.__module__:
        return layer
    before = f"{layer.module}.{list(sequence._modules)[-2]}"
    return next((each for each in reversed(layers) if each.module == before), layer)


def _read_classes(classes: Any) -> tuple[tuple[str, ...] | None, int]:
    """Return the names of the classes, or None, and their number."""
    if isinstance(classes, int) and not isinstance(classes, bool):
        labels, count = None, classes
    elif isinstance(classes, Sequence) and not isinstance(classes, str) and all(isinstance(c, str) for c in classes):
        labels, count = tuple(classes), len(set(classes))
        if count < len(labels):
            raise InvalidInput(f"Class names must be unique, got {len(labels)} names, only {count} of them distinct.")
    else:
        raise InvalidInput(f"classes must be a number of classes or a sequence of their names, got {classes!r}.")
    if count < 2:
        raise InvalidInput(f"There must be at least two classes, got {classes!r}.")
    return labels, count


def _reference_tensor(hooked: HookedModel) -> Tensor:
    """Return a tensor with the model's precision and device."""
    return next(parameter for parameter in hooked.module.parameters() if parameter.is_floating_point())
