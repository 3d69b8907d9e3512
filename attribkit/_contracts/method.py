"""The base class for attribution methods, and the model interface that they use.

A method computes with a `HookedModel`. Each call takes a batch of images and returns tensors without a graph, in the
dtype of the images (float32 for images of half precision). Batches that do not fit into memory are split. Cost of a
call, for the whole batch:

One forward, without a graph:
    - ``score(x, target)``: the target's score of each image, (b,).
    - ``probabilities(x)``: the probability of each class, (b, classes).
    - ``activation(x, layer, target)``: the activation of a layer, (b, d, *grid).
    - ``attention(x, target)``: the attention weights of all layers.
    - ``attention_gates(x)``: the gates of attention modules in convolutional networks.
    - ``class_weights(x, target, layer)``: the maps and the class weights of a linear head, as CAM needs them; with the
      gradient of the head.

One forward and one backward:
    - ``gradient(x, target, rule)``: d score / d x, (b, c, *space); `rule` replaces the backward of ReLUs.
    - ``activation_and_gradient(x, target, layer)``: a layer's activation and d score / d activation. The graph starts
      at the layer, so the backward is shorter.
    - ``read(x, target, requires)``: several layers and gradients at once; each rule adds one backward.
    - ``attention_and_gradient(x, target, fuse)``: attention weights and d score / d weights, combined by `fuse`.
    - ``differentiate(x, target, derive)``: what `derive` computes from the score as a differentiable function.

k perturbed versions of the batch, several in one forward, in memory that does not grow with k:
    - ``scores(stream, target, total)``: k forwards; scores, (k, b).
    - ``gradients(stream, target, total)``: k forwards and backwards; one gradient after the other.
    - ``scores_with(x, target, layer, changes)``: one forward, and k of the part above `layer`; scores under k changes
      of the layer's output, (k, b).

As a module, for algorithms of other libraries:
    - ``scoring_module(target)``: a module that maps images to the target's score of each, (n,), with their graph; its
      submodules are those of the model. One forward for each call.
    - ``copy_without_inplace()``: the same model with a copy of its modules, none of which works in place.

No forward:
    - ``note(text)``: adds a note to the result, for what the user must know to interpret the map.
    - ``cached(key, compute)``: a value that is computed once for these images and shared by methods and metrics.
    - ``one_by_one(target)``: the model and the target bound to each image; see also `PerImageMethod`.
    - ``resolve(target)``: the target with the predicted classes made explicit; one forward if they are not known yet.

The first call that reads a layer for a new image size runs one more forward of one image, which finds the layers and
their grids. ``layer=None`` means the layer that the model's spec or this forward justifies.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from attribkit._core.options import Options
from attribkit._core.shapes import Images, Scores
from attribkit._display.progress import track
from attribkit._engine.forward import Requirements
from attribkit._engine.model import HookedModel
from attribkit._targets.target import Target


class Method(Options, ABC):
    """Base class for attribution methods, which score each position of the images for a target.

    Subclass it as a frozen dataclass with a docstring, the class attributes `name` and `source`, and `__call__`. The
    fields are the options of the method. The annotation of a field states the values that the option accepts, such as
    ``samples: PositiveInt`` or ``layer: str | None``; any other value raises InvalidInput when an instance is made.

    A method contains the mathematics only. `Explainer` validates the images, resolves the target, puts the model into
    evaluation mode, restores its state afterwards (even after an error) and resizes the scores to the images.

    `attribkit.register` makes a method available by its name in the process; the `attribkit_methods` hook of a plugin
    does so permanently. `attribkit.testing.check_method` tests whether a method satisfies this contract.

    Attributes:
        name: Name by which users select the method, as in ``method="gradcam"``; up to 64 letters, digits and
            characters of ``_+-.``.
        display_name: Name in figures, such as "Grad-CAM"; empty means `name`.
        source: Authors, venue and year of the method, with the equation where it applies.
        uses_target: Whether the scores depend on the target. If False, the method is called with ``NoTarget()`` if the
            user gives no target.
        min_half_precision_correlation: Least correlation between the scores of a bfloat16 model and of its float32
            version, which `check_method` requires. Methods that sample, or threshold scores, may declare a lower bound.

    Example:
        A method that multiplies the gradient by the image::

            @dataclass(frozen=True)
            class GradientTimesInput(Method):
                "Gradient times input."

                name = "gradient_times_input"
                source = "Shrikumar et al., 2016, arXiv:1605.01713"
                absolute: bool = False

                def __call__(self, model, x, target):
                    scores = x * model.gradient(x, target)
                    return scores.abs() if self.absolute else scores


            Explainer(network).attribute(x, GradientTimesInput(absolute=True))
    """

    name: ClassVar[str]
    display_name: ClassVar[str] = ""
    source: ClassVar[str]
    uses_target: ClassVar[bool] = True
    min_half_precision_correlation: ClassVar[float] = 0.99

    @property
    def requires(self) -> Requirements:
        """Return the layers and gradients that `__call__` reads for the unperturbed images.

        Optional: it only saves time. `Explainer.compare` computes the requirements of all its methods in one forward,
        and `read`, `gradient`, `activation_and_gradient` and `score` then return these results for the same `x`.

        Returns:
            By default no requirements. ``Requirements(layers=(None,))`` is the default layer,
            ``Requirements(gradients=(None,))`` the plain gradient with respect to the images.
        """
        return Requirements()

    @abstractmethod
    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        """Compute the scores of the images for the target.

        Args:
            model: The model, bound to `x`: frozen, in evaluation mode. See `HookedModel` for its interface.
            x: Images, (b, c, *space), preprocessed as the model expects. Do not modify them in place.
            target: What is explained. Pass it to the calls of `model`, which resolve it.

        Returns:
            Finite, signed scores, (b, k, *grid): k is 1 or c, and `grid` is the resolution of the method, such as the
            grid of a layer. Positive scores are evidence for the target; magnitudes, which do not state a sign, are
            allowed.
        """


class PerImageMethod(Method):
    """Base class for methods that explain one image at a time; implement `explain` in place of `__call__`.

    Use it for algorithms whose intermediate batches do not keep the order of the images, such as those of other
    libraries. It costs more forwards than a method for batches.
    """

    @abstractmethod
    def explain(self, model: HookedModel, x: Images, target: Target) -> Scores:
        """Compute the scores of one image.

        Args:
            model: The model, bound to `x`.
            x: The image, (1, c, *space).
            target: The target of this image.

        Returns:
            As for `Method.__call__`, (1, k, *grid).
        """

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        target = model.resolve(target)
        images = track(model.one_by_one(target), "images", len(x))
        return torch.cat([self.explain(one, one.images, own) for one, own in images])
