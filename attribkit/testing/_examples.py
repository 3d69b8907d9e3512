"""Small networks and images for the checks: ordinary ones, and detectors whose correct maps are known."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit._contracts.method import Method
from attribkit._core.errors import InvalidInput, UnknownName, UnsupportedModel, one_line
from attribkit._explainer import Explainer
from attribkit.testing._checks import ConformanceError, NotApplicable

CELL_SIDE = 16  # pixels of a grid cell of the detectors, along each axis
_GRID = (6, 10)  # cells of their images
_SPOT = 2  # cells of a spot, along each axis
RED, BLUE = 1, 2  # classes of the detectors

FirstCell = tuple[int, int]  # row and column of the first cell of a spot


class Spots(NamedTuple):
    """The positions of the coloured spots of an image."""

    red: FirstCell
    blue: FirstCell
    green: FirstCell


# No spot touches the border, where the enlargement of a coarse map is not symmetric.
SPOTS = (
    Spots((1, 1), (3, 7), (1, 4)),
    Spots((1, 7), (3, 1), (3, 4)),
    Spots((3, 7), (1, 2), (1, 5)),
    Spots((3, 1), (1, 6), (3, 4)),
)


def tiny_cnn() -> nn.Module:
    """Return a small CNN with batch norm, in-place ReLU and dropout, in training mode; (b, 3, 16, 16) to 5 classes."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 5),
        )  # fmt: skip
        nn.init.uniform_(model[1].get_buffer("running_var"), 0.5, 2.0)
    return model


def tiny_volume_cnn() -> nn.Module:
    """Return a small CNN for volumes and clips, in training mode; (b, 3, 6, 16, 16) to 5 classes."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv3d(4, 6, 3, padding=1, stride=2),
            nn.ReLU(inplace=True), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 5),
        )  # fmt: skip


def tiny_transformer() -> nn.Module:
    """Return a small vision transformer with a class token, in training mode; (b, 3, 16, 16) to 5 classes."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return _TinyTransformer()


def images() -> Tensor:
    """Return three images of noise for the small networks, (3, 3, 16, 16)."""
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float32, device="cpu")


def example_of(method: Method) -> tuple[nn.Module, Tensor]:
    """Return the first small network that a method supports, and images for it.

    Raises:
        ConformanceError: If the method supports neither network.
    """
    model, refusals = _first_supported(method, (tiny_cnn, tiny_transformer), images())
    if model is None:
        raise ConformanceError(
            f"the method refuses a small CNN and a small vision transformer: {refusals[-1]}",
            "a method that supports one of them, or a model of your own",
            "pass a model and images that the method supports: check_method(method, model, x)",
        )
    return model, images()


def detector_of(method: Method, x: Tensor) -> nn.Module:
    """Return the first detector of spots that a method supports; raises NotApplicable."""
    model, refusals = _first_supported(method, (SpotCNN, SpotAttention), x)
    if model is None:
        raise NotApplicable(f"the method refuses the detectors whose correct maps are known: {refusals[-1]}")
    return model


def _first_supported(
    method: Method, makers: Sequence[Callable[[], nn.Module]], x: Tensor
) -> tuple[nn.Module | None, list[str]]:
    """Return the first model that a method does not refuse, and the refusals of the models before it."""
    refusals = []
    for make in makers:
        model = make().to(x.device)
        try:
            Explainer(model).attribute(x[:1], method)
        except (UnsupportedModel, UnknownName, InvalidInput) as error:
            refusals.append(one_line(str(error)))
            continue
        except Exception:  # the check that runs the method reports the error
            pass
        return model, refusals
    return None, refusals


class _TinyTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 8, dtype=torch.float32, device="cpu"))
        self.positions = nn.Parameter(torch.randn(1, 17, 8, dtype=torch.float32, device="cpu"))
        self.blocks = nn.ModuleList(_Block() for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        scores: Tensor = self.head(self.norm(tokens)[:, 0])
        return scores


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.projection = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.projection(_attend(self.qkv(self.norm1(tokens))))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


def _attend(qkv: Tensor) -> Tensor:
    """Apply attention with two heads to queries, keys and values, (b, tokens, 3 * width)."""
    q, k, v = qkv.unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SpotCNN(nn.Module):
    """A CNN that detects red and blue spots; (b, 3, 96, 160) to the classes none, red and blue. It ignores green.

    The correct map of a class has its maximum on the spots of its colour. Two detectors of each colour differ in their
    thresholds. With `swap` of one, an image's scores of red and blue are exchanged: an input besides the image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detectors = _cell_means([0, 0, 2, 2], [-0.5, -0.25, -0.5, -0.25])
        self.relu, self.pool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.head = _linear([[0, 0, 0, 0], [200, 100, 0, 0], [0, 0, 200, 100]], [4, 0, 0])
        self.eval()

    def forward(self, x: Tensor, swap: Tensor | None = None) -> Tensor:
        found = self.pool(self.relu(self.detectors(x))).flatten(1)
        scores: Tensor = self.head(_swapped(found, swap))
        return scores


class SpotAttention(nn.Module):
    """The same detector with attention: one head attends to red cells, the other to blue ones."""

    def __init__(self) -> None:
        super().__init__()
        self.detectors = _cell_means([0, None, 2, None], [0, 0, 0, 0])
        self.class_token = nn.Parameter(torch.tensor([[[0.0, 1.0, 0.0, 0.0]]], dtype=torch.float32, device="cpu"))
        query, key, value = torch.zeros(3, 4, 4, dtype=torch.float32, device="cpu")
        key[0, 0] = key[2, 2] = value[0, 0] = value[2, 2] = 1
        self.qkv = _linear(torch.cat([query, key, value]).tolist(), [4, 0, 4, 0] + [0] * 8)
        self.head = _linear([[0, 0, 0, 0], [20, 0, 0, 0], [0, 0, 20, 0]], [4, 0, 0])
        self.eval()

    def forward(self, x: Tensor, swap: Tensor | None = None) -> Tensor:
        tokens = self.detectors(x).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        scores: Tensor = self.head(_swapped((tokens + _attend(self.qkv(tokens)))[:, 0], swap))
        return scores


def exchange_colours(model: nn.Module) -> nn.Module:
    """Exchange the colours that a detector responds to, in place, and return it."""
    with torch.no_grad():
        weight = model.get_parameter("detectors.weight")
        weight.copy_(weight.flip(1))
    return model


def spotted_images(colours: Sequence[str] = ("red", "blue", "green")) -> Tensor:
    """Return a dark image for each of SPOTS with spots of these colours, (4, 3, 96, 160)."""
    sides = [CELL_SIDE * cells for cells in _GRID]
    x = torch.zeros(len(SPOTS), 3, *sides, dtype=torch.float32, device="cpu")
    for image, spots in zip(x, SPOTS, strict=True):
        for colour in colours:
            rows, columns = (slice(CELL_SIDE * i, CELL_SIDE * (i + _SPOT)) for i in getattr(spots, colour))
            image[("red", "green", "blue").index(colour), rows, columns] = 1
    return x


def spot_masks(colour: str) -> Tensor:
    """Return the masks of the spots of one colour, bool, (4, 96, 160)."""
    return spotted_images([colour]).sum(1) > 0


def spot_centre(spots: Spots, colour: str) -> Tensor:
    """Return the row and column of the centre of a spot, in pixels."""
    corner = torch.tensor(getattr(spots, colour), dtype=torch.float32, device="cpu")
    return corner * CELL_SIDE + (_SPOT * CELL_SIDE - 1) / 2


def _cell_means(channels: Sequence[int | None], biases: Sequence[float]) -> nn.Conv2d:
    """Return a convolution that computes the mean of a channel over each cell; None gives zero."""
    with torch.random.fork_rng([]):
        layer = nn.Conv2d(3, len(channels), CELL_SIDE, stride=CELL_SIDE)
    with torch.no_grad():
        layer.weight.zero_()
        for i, channel in enumerate(channels):
            if channel is not None:
                layer.weight[i, channel] = 1 / CELL_SIDE**2
        layer.get_parameter("bias").copy_(torch.tensor(biases, dtype=torch.float32, device="cpu"))
    return layer


def _linear(weight: Sequence[Sequence[float]], bias: Sequence[float]) -> nn.Linear:
    with torch.random.fork_rng([]):
        layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float32, device="cpu"))
        layer.bias.copy_(torch.tensor(bias, dtype=torch.float32, device="cpu"))
    return layer


def _swapped(found: Tensor, swap: Tensor | None) -> Tensor:
    """Exchange the features of the two colours of the images whose `swap` is one."""
    return found if swap is None else torch.lerp(found, found.roll(2, 1), swap[:, None].to(found))
