"""The base class for visualizers: optimise or select images to which a unit of a model responds.

A visualizer computes with a `HookedModel`, see `attribkit._contracts.method` for its interface. Two calls matter here:

- ``score_and_gradient(images, unit)``: the unit's response to each image, (n,), and its derivative with respect to the
  images, (n, c, *space); one forward and one backward.
- ``score(images, unit)``: the response alone; one forward.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from attribkit._core.options import Options
from attribkit._core.shapes import Images
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target

GeneratedImages = Float[Tensor, "n c *space"]  # n: the number of blank images, or a multiple of it
Responses = Float[Tensor, "steps n"]  # response of the unit to each of the n images at each step


class Visualizer(Options, ABC):
    """Base class for visualizers, which create images that a unit of a model responds to.

    Subclass it as a frozen dataclass with a docstring, the class attributes `name` and `source`, and `__call__`. The
    fields are the options. Their annotations state the accepted values, which are checked when an instance is made.

    The caller (`Explainer.visualize`) puts the model into evaluation mode, and restores the model and the global random
    number generators afterwards. It does not seed them: draw random numbers from a seeded generator, so the same call
    returns the same images.

    `attribkit.register` makes a visualizer available by its name in the process; the `attribkit_visualizers` hook of a
    plugin does so permanently. `attribkit.testing.check_visualizer` tests whether it satisfies this contract.

    Attributes:
        name: Name by which users select the visualizer, as in ``visualizer="activation_maximization"``.
        source: Authors, venue and year of the visualizer, with the equation where it applies.

    Example:
        Gradient ascent from grey images::

            @dataclass(frozen=True)
            class GradientAscent(Visualizer):
                "Gradient ascent on the pixels."

                name = "gradient_ascent"
                source = "Erhan et al., University of Montreal, 2009"
                steps: PositiveInt = 64

                def __call__(self, model, unit, blank):
                    images, responses = blank, []
                    for _ in range(self.steps):
                        response, gradient = model.score_and_gradient(images, unit)
                        images = images + gradient
                        responses.append(response)
                    responses.append(model.score(images, unit))
                    return images, torch.stack(responses)
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def __call__(self, model: HookedModel, unit: Target, blank: Images) -> tuple[GeneratedImages, Responses]:
        """Generate images that excite the unit.

        Args:
            model: The model, bound to `blank`: frozen, in evaluation mode.
            unit: What to maximise: a class, a hidden unit, a direction or any other target. A target of several
                classes has one class for each blank image.
            blank: Zeros with the shape, device and dtype that the images must have, (m, c, *space): one image, or one
                for each class of the target.

        Returns:
            The images, (n, c, *space), normalised as the model expects, where n is m or a multiple of it (image i then
            belongs to blank image i modulo m); and the unit's responses, (steps, n), whose last row contains the
            responses to the returned images. Both must be finite.
        """
