"""Oracles of the methods: a peer library, a closed form, or a slow loop written from the paper."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from parity_models import Subject
from scipy import ndimage
from skimage.transform import resize
from torch import Tensor, nn

from attribkit import Explainer

SCORE_FACTOR = 1e6  # for scores, where a peer adds constants to its denominators
SAMPLES, SIGMA, SEED = 8, 0.15, 0  # of SmoothGrad
MASKS, CELLS = 24, 5  # of RISE

Pair = tuple[Tensor, Tensor]  # attribkit's and the oracle's, same shape, images first


# Shared helpers


def attributed(subject: Subject, method: str, *, twin: bool = False, target: Any = None, **options: Any) -> Tensor:
    """Return attribkit's scores as the method computed them."""
    model, target = (subject.twin if twin else subject.model), subject.classes if target is None else target
    return Explainer(model).attribute(subject.x, method, target=target, **options).scores


def unit_heatmap(subject: Subject, method: str, **options: Any) -> Tensor:
    """Return attribkit's maps at image size, scaled to the range 0 to 1 as by pytorch-grad-cam."""
    scores = attributed(subject, method, **options)
    size = tuple(subject.x.shape[2:])
    maps = nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and progress bars of the peers."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def read_layer(model: nn.Module, layer: str, x: Tensor, score: Callable[[Tensor], Tensor]) -> Pair:
    """Return the output of a layer and the gradient of the summed scores with respect to it, by a plain hook."""
    kept: list[Tensor] = []
    with model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2])):
        outputs = model(x)
    (gradient,) = torch.autograd.grad(score(outputs).sum(), kept[-1])
    return kept[-1].detach(), gradient


def of_classes(outputs: Tensor, classes: list[int], factor: float = 1) -> Tensor:
    return factor * outputs[torch.arange(len(classes)), classes]


# Class activation maps


def cam(subject: Subject) -> Pair:
    """Compare with two oracles: classifier weights times maps, and captum's Grad-CAM without ReLU times H·W."""
    from captum.attr import LayerGradCam

    ours = attributed(subject, "cam")
    assert subject.rectified is not None
    layer = subject.twin.get_submodule(subject.rectified)
    with quiet():
        gradcam = LayerGradCam(subject.twin, layer).attribute(subject.x, torch.tensor(subject.classes)).detach()
    maps, _ = read_layer(subject.twin, subject.rectified, subject.x, partial(of_classes, classes=subject.classes))
    weight = [module for module in subject.twin.modules() if isinstance(module, nn.Linear)][-1].weight.detach()
    closed = torch.einsum("bd,bdhw->bhw", weight[subject.classes], maps)[:, None]
    return torch.cat([ours, ours], 1), torch.cat([closed, gradcam * maps[0, 0].numel()], 1)


def of_pytorch_grad_cam(
    method: str,
    peer: str,
    subject: Subject,
    *,
    layer: str | None = None,
    twin: bool = False,
    scaled: bool = True,
) -> Pair:
    """Compare a method with that of pytorch-grad-cam, on the same layer.

    twin: attribkit explains the twin, too. scaled: multiply the scores, which makes the constants that pytorch-grad-cam
    adds negligible.
    """
    cams = importlib.import_module("pytorch_grad_cam")
    layer, factor = layer or subject.layer, SCORE_FACTOR if scaled else 1
    score = partial(of_classes, classes=subject.classes, factor=factor)
    ours = unit_heatmap(subject, method, twin=twin, layer=layer, target=score if scaled else None)
    targets = [lambda output, c=c: factor * output[..., c] for c in subject.classes]
    layers = [subject.twin.get_submodule(layer)]
    with quiet(), getattr(cams, peer)(subject.twin, layers, reshape_transform=subject.tokens) as made:
        theirs = made(input_tensor=subject.x, targets=targets)
    return ours, torch.from_numpy(theirs).double()


def behind_relu(method: str, peer: str, subject: Subject) -> Pair:
    """Compare at the last layer that is not negative; attribkit explains the twin if the model lacks this layer."""
    return of_pytorch_grad_cam(method, peer, subject, layer=subject.rectified, twin=subject.rectified != subject.layer)


def gradcam_plus_plus_as_printed(subject: Subject) -> Pair:
    """Compute eq. 19 in double precision, without a constant in the denominator."""
    assert subject.tokens is not None
    score = partial(of_classes, classes=subject.classes)
    ours = attributed(subject, "gradcam++", layer=subject.layer, target=score)
    maps, gradient = map(subject.tokens, read_layer(subject.model, subject.layer, subject.x, score))
    alpha = gradient**2 / (2 * gradient**2 + maps.sum((2, 3), keepdim=True) * gradient**3)
    weights = (alpha * gradient.clamp(min=0)).sum((2, 3), keepdim=True)
    return ours, (weights * maps).sum(1, keepdim=True).clamp(min=0)


def eigencam(subject: Subject) -> Pair:
    """Compare with pytorch-grad-cam, its sign chosen by the mean activation, or by the skew if that is constant."""
    module = importlib.import_module("pytorch_grad_cam.eigen_cam")
    project = module.get_2d_projection

    def turned(activations: np.ndarray) -> np.ndarray:
        projections, means = project(activations), activations.mean(1)
        means = means - means.mean((1, 2), keepdims=True)
        if means.std() < 1e-6 * activations.std():
            return projections * np.sign((projections**3).sum((1, 2), keepdims=True))
        return projections * np.sign((projections * means).sum((1, 2), keepdims=True))

    with mock.patch.object(module, "get_2d_projection", turned):
        return of_pytorch_grad_cam("eigencam", "EigenCAM", subject)


class Enlarge(nn.Upsample):
    """Bilinear upsampling without aligned corners, as pytorch-grad-cam uses it for maps but not for masks."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__(size=tuple(size), mode="bilinear", align_corners=False)


def scorecam(subject: Subject) -> Pair:
    with mock.patch.object(torch.nn, "UpsamplingBilinear2d", Enlarge):
        return of_pytorch_grad_cam("scorecam", "ScoreCAM", subject, layer=subject.scorecam_layer, scaled=False)


def ablationcam(subject: Subject) -> Pair:
    return of_pytorch_grad_cam("ablationcam", "AblationCAM", subject, layer=subject.ablationcam_layer, scaled=False)


def ablationcam_one_by_one(subject: Subject) -> Pair:
    """Compute eqs. 3 and 4 on tokens: one forward for each channel, set to zero by a hook."""
    assert subject.tokens is not None
    ours = attributed(subject, "ablationcam", layer=subject.layer)
    model, score = subject.model, partial(of_classes, classes=subject.classes)
    maps = subject.tokens(read_layer(model, subject.layer, subject.x, score)[0])
    with torch.no_grad():
        full, total = score(model(subject.x)), torch.zeros_like(maps[:, :1])
        for channel in range(maps.shape[1]):

            def without(_module: nn.Module, _inputs: Any, output: Tensor, channel: int = channel) -> Tensor:
                return output.index_fill(-1, torch.tensor([channel]), 0)

            with model.get_submodule(subject.layer).register_forward_hook(without):
                lost = (full - score(model(subject.x))) / full.abs()
            total += lost[:, None, None, None] * maps[:, channel : channel + 1]
    return ours, total.clamp(min=0)


# Gradients


def of_captum(method: str, peer: str, subject: Subject, **options: Any) -> Pair:
    """Compare a method with captum's, on all channels."""
    theirs = captum_method(peer, subject).attribute(subject.x.clone(), target=torch.tensor(subject.classes), **options)
    return attributed(subject, method), theirs.detach()


def captum_method(peer: str, subject: Subject, *arguments: Any) -> Any:
    return getattr(importlib.import_module("captum.attr"), peer)(subject.twin, *arguments)


def saliency(subject: Subject) -> Pair:
    ours, theirs = of_captum("saliency", "Saliency", subject)
    return ours, theirs.amax(1, keepdim=True)


def integrated_gradients(subject: Subject) -> Pair:
    return of_captum("integrated_gradients", "IntegratedGradients", subject, n_steps=50, internal_batch_size=8)


def smoothgrad(subject: Subject) -> Pair:
    """Average captum's gradients over noisy images; the noise follows from the seed, unlike that of NoiseTunnel."""
    options: dict[str, Any] = {"samples": SAMPLES, "sigma": SIGMA, "seed": SEED}
    random, total = torch.Generator().manual_seed(SEED), torch.zeros_like(subject.x)
    width = torch.stack([SIGMA * (image.max() - image.min()) for image in subject.x])[:, None, None, None]
    for _ in range(SAMPLES):
        noisy = subject.x + width * torch.randn(subject.x.shape[1:], generator=random).double()
        total += captum_method("Saliency", subject).attribute(noisy, torch.tensor(subject.classes), abs=False)
    return attributed(subject, "smoothgrad", **options), total / SAMPLES


def guided_gradcam(subject: Subject) -> Pair:
    layer = subject.twin.get_submodule(subject.layer)
    peer = captum_method("GuidedGradCam", subject, layer)
    theirs = peer.attribute(subject.x.clone(), torch.tensor(subject.classes), interpolate_mode="bilinear")
    return attributed(subject, "guided_gradcam", layer=subject.layer), theirs.detach()


# Attention


def unfused(subject: Subject) -> tuple[list[Tensor], Tensor]:
    """Return the weights of every layer by timm's unfused attention, (b, heads, queries, keys), and the outputs."""
    kept: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        twin: Any = subject.twin
        for block in twin.blocks:
            block.attn.fused_attn = False
            stack.enter_context(block.attn.attn_drop.register_forward_hook(lambda *call: kept.append(call[2])))
        outputs = subject.twin(subject.x)
    return kept, outputs


def attention(subject: Subject) -> Pair:
    weights = unfused(subject)[0][-1].detach().mean(1)
    return attributed(subject, "attention"), on_grid(weights)


def attention_rollout(subject: Subject) -> Pair:
    rollout = torch.eye(197, dtype=torch.float64)
    for weights in unfused(subject)[0]:
        step = 0.5 * weights.detach().mean(1) + 0.5 * torch.eye(197, dtype=torch.float64)
        rollout = (step / step.sum(-1, keepdim=True)) @ rollout
    return attributed(subject, "attention_rollout"), on_grid(rollout)


def gradient_rollout(subject: Subject) -> Pair:
    layers, outputs = unfused(subject)
    gradients = torch.autograd.grad(of_classes(outputs, subject.classes).sum(), layers)
    relevance = torch.eye(197, dtype=torch.float64)
    for weights, gradient in zip(layers, gradients, strict=True):
        relevance = relevance + (weights * gradient).detach().clamp(min=0).mean(1) @ relevance
    return attributed(subject, "gradient_rollout"), on_grid(relevance)


def on_grid(weights: Tensor) -> Tensor:
    """Return the row of the class token over the patches, (b, 1, 14, 14)."""
    return weights[:, 0, 1:].unflatten(1, (14, 14))[:, None]


# Perturbations


def occlusion(subject: Subject) -> Pair:
    """Compare with overlapping patches, of which the border cuts off the last."""
    side = subject.x.shape[-1]
    patch, stride = side // 3, side // 5
    theirs = captum_method("Occlusion", subject).attribute(
        subject.x, (3, patch, patch), (3, stride, stride), target=torch.tensor(subject.classes)
    )
    return attributed(subject, "occlusion", patch=patch, stride=stride), theirs[:, :1]


@torch.no_grad()
def rise(subject: Subject) -> Pair:
    """Compute eq. 6 one mask at a time; cells are drawn from the seed and enlarged by scikit-image."""
    side = subject.x.shape[-1]
    cell = -(-side // CELLS)
    random, total = torch.Generator().manual_seed(SEED), torch.zeros_like(subject.x[:, :1])
    for _ in range(MASKS):
        visible = (torch.rand(1, 1, CELLS, CELLS, generator=random) < 0.5)[0, 0].double().numpy()
        wide = resize(visible, 2 * [(CELLS + 1) * cell], order=1, mode="edge", anti_aliasing=False)
        top, left = (int(torch.randint(cell, (), generator=random)) for _ in range(2))
        mask = torch.from_numpy(wide[top : top + side, left : left + side])
        score = of_classes(subject.model(subject.x * mask).softmax(1), subject.classes)
        total += score[:, None, None, None] * mask
    return attributed(subject, "rise", masks=MASKS, cells=CELLS, seed=SEED), total / MASKS / 0.5


# Controls


def random_control(subject: Subject) -> Pair:
    size = subject.x.shape[2:]
    noise = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(SEED), dtype=torch.float32)
    return attributed(subject, "random", seed=SEED), noise.double().expand(len(subject.x), 1, *size)


def centre(subject: Subject) -> Pair:
    side = subject.x.shape[-1]
    positions = (np.arange(side) + 0.5) / side - 0.5
    bump = np.exp(-np.add.outer(positions**2, positions**2) / (2 * 0.25**2))
    return attributed(subject, "centre", sigma=0.25), torch.from_numpy(bump).expand(len(subject.x), 1, -1, -1)


def edges(subject: Subject) -> Pair:
    def magnitude(channel: np.ndarray) -> np.ndarray:
        return np.hypot(*(ndimage.sobel(channel, axis, mode="nearest") for axis in (0, 1)))

    theirs = [np.max([magnitude(channel) for channel in image], axis=0) for image in subject.x.numpy()]
    return attributed(subject, "edges"), torch.from_numpy(np.stack(theirs))[:, None]


def input_norm(subject: Subject) -> Pair:
    norm = np.linalg.norm(subject.x.numpy(), axis=1, keepdims=True)
    return attributed(subject, "input_norm"), torch.from_numpy(norm)
