"""A check that a method finds a bright patch where it is."""

import torch
from torch import Tensor, nn

from attribkit.contracts.method import Method
from attribkit.explainer import Explainer

_SIDES = (24, 40)  # of the images, which are not square
_PATCH = 8  # pixels; two cells of the detector's grid
_NEAR = 8.0  # pixels between the patch's centre and the map's


def check_position(method: Method) -> None:
    """A method whose map shows where the score comes from finds a bright patch, wherever it is.

    The model is a detector of brightness, and the images are dark but for the patch. Not for methods that know nothing
    of the model, such as the controls. Raises AssertionError.
    """
    model = bright_patch_detector()
    for place in ((0, 0), (0, 32), (16, 0), (8, 24)):
        image = bright_patch(place)
        found = centre_of(Explainer(model).attribute(image, method, target=1).heatmap()[0])
        wanted = torch.tensor(place, dtype=torch.float32, device="cpu") + (_PATCH - 1) / 2
        far = float((found - wanted).abs().max())
        assert far <= _NEAR, f"the patch is at {wanted.tolist()} (row, column) and the map's centre at {found.tolist()}"


def bright_patch_detector() -> nn.Module:
    """A small network whose second class is scored by its bright parts; (b, 3, 24, 40) to 2 classes."""
    with torch.random.fork_rng([]):
        detectors, head = nn.Conv2d(3, 2, 4, stride=4), nn.Linear(2, 2)
    with torch.no_grad():
        detectors.weight.fill_(1 / detectors.weight[0].numel())  # the mean of a cell's pixels
        detectors.bias = nn.Parameter(torch.tensor([-0.5, -0.25], dtype=torch.float32, device="cpu"))
        head.weight.copy_(torch.tensor([[0.0, 0.0], [200.0, 100.0]], dtype=torch.float32, device="cpu"))
        head.bias.copy_(
            torch.tensor([4.0, 0.0], dtype=torch.float32, device="cpu")
        )  # a dark image is of the first class
    return nn.Sequential(detectors, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def bright_patch(place: tuple[int, int]) -> Tensor:
    """A dark image, (1, 3, 24, 40), with a bright patch of 8 by 8 pixels at a row and a column."""
    image = torch.zeros(1, 3, *_SIDES, dtype=torch.float32, device="cpu")
    row, column = place
    image[..., row : row + _PATCH, column : column + _PATCH] = 1.0
    return image


def centre_of(heatmap: Tensor) -> Tensor:
    """The row and the column of the centre of a map's larger values, those in the upper third of its range."""
    weights = heatmap - heatmap.min()
    weights = weights.where(weights >= weights.max() * 2 / 3, 0)
    places = torch.meshgrid(
        *(torch.arange(float(side), dtype=torch.float32, device="cpu") for side in heatmap.shape), indexing="ij"
    )
    return torch.stack([(weights * each.to(weights)).sum() for each in places]) / weights.sum()
