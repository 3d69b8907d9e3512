"""The front door."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from attribkit import registry
from attribkit.core.admission import check_images, checked_mask, unwrapped
from attribkit.core.attribution import Attribution
from attribkit.core.errors import AttribkitError, InvalidInput
from attribkit.core.gates import Gate
from attribkit.core.hooks import frozen
from attribkit.core.layers import Layer
from attribkit.core.method import Method
from attribkit.core.metric import Faithfulness, Localization, Metric
from attribkit.core.model import HookedModel
from attribkit.core.preflight import Finding, preflight
from attribkit.core.reading import Reads, precise
from attribkit.core.shapes import Images, Masks, PerImage
from attribkit.core.spec import ModelSpec
from attribkit.core.targets import Predicted, Target, as_target, check_count
from attribkit.core.units import LayerUnit
from attribkit.core.visualization import Visualization, names
from attribkit.core.visualizer import Visualizer
from attribkit.inspection.feature_maps import FeatureMaps, feature_maps
from attribkit.inspection.filters import Filters, filters
from attribkit.inspection.receptive_field import ReceptiveField, receptive_field

_NOISE_IMAGES = 8  # over which a gradient is averaged where no images are given
Seen = TypeVar("Seen")


class Explainer:
    """Explains one model, and leaves it as it was.

    >>> Explainer(model).attribute(x, method="gradcam").heatmap()

    model: any module that turns images (b, c, *space) into class scores (b, classes), or into anything that a target
    can score. spec: what the model's family does not say of it. batch_size: images at a time; "auto" is as many as fit.
    """

    def __init__(
        self, model: nn.Module, *, spec: ModelSpec | None = None, batch_size: int | Literal["auto"] = "auto"
    ) -> None:
        module = unwrapped(model)
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise InvalidInput(f"batch_size={batch_size!r} is neither 'auto' nor a number of images from 1.")
        if not isinstance(spec, ModelSpec | None):
            raise InvalidInput(f"spec={spec!r} is no ModelSpec: write spec=ModelSpec(layer=...).")
        self.model = HookedModel(
            module, spec or registry.model_spec(module), batch_size=None if batch_size == "auto" else batch_size
        )

    def attribute(
        self, x: Images, method: str | type[Method] | Method = "gradcam", *, target: Any = None, **options: Any
    ) -> Attribution:
        """Score every pixel of x for a target.

        x: (b, c, *space), preprocessed as the model expects, on its device. method: a name, class or instance; options
        are its fields. target: a class index or label, one per image, a Target, or a function of the model's outputs;
        None is the predicted class. Raises an AttribkitError that says what to do where there is no honest answer.
        """
        explain = registry.make(method, Method, **self._named_layers(options))
        question = self._question(target, x)
        with frozen(self.model.module):
            x = x.detach().clone()  # what a plugin or a later line of the user's writes into one, the other keeps
            return _attribution(explain, self.model.explaining(x), x, question)

    def compare(
        self,
        x: Images,
        methods: Sequence[str | type[Method] | Method],
        *,
        targets: Sequence[Any] = (None,),
    ) -> list[Attribution]:
        """Explain the same images by several methods, for one or more targets, with one forward for all that it serves.

        x: as for `attribute`. methods: names, classes or instances with options. targets: each as `attribute` takes it,
        such as a class for all images; (None,) is the predicted one. Gives an attribution for each target and method,
        target by target; each equals what `attribute` gives.
        """
        made = [registry.make(method, Method) for method in _several(methods, "methods")]
        questions = [self._question(target, x) for target in _several(targets, "targets")]
        with frozen(self.model.module):
            x = x.detach().clone()
            knowing = self.model.explaining(x).knowing(
                questions, functools.reduce(Reads.__or__, (m.reads for m in made))
            )
            pairs = itertools.product(questions, made)
            return [_attribution(explain, knowing.again(), x, question) for question, explain in pairs]

    def visualize(
        self,
        unit: Any,
        visualizer: str | type[Visualizer] | Visualizer = "activation_maximization",
        *,
        size: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> Visualization:
        """Make images that a unit of the model responds to.

        unit: a class index or label, several of these, a Target, a function of the model's outputs, or a Unit or
        Direction of a layer. visualizer: a name, class or instance; options are its fields. size: (c, *space) of the
        images, or a side in pixels; None is the size that the model was made for. Raises an AttribkitError that says
        what to do where there is no honest answer.
        """
        draw = registry.make(visualizer, Visualizer, **options)
        wanted = unit if isinstance(unit, LayerUnit) else as_target(unit, self.model.spec.labels)
        if isinstance(wanted, Predicted):
            raise InvalidInput(
                "unit=None: nothing is predicted before there is an image; name a class or a layer's unit."
            )
        count = wanted.count if isinstance(wanted, Target) else None
        with frozen(self.model.module):
            blank = self._blank(count or 1, size)
            model = self.model.explaining(blank)
            try:
                images, responses = _checked_visualization(draw(model, wanted, blank), blank, draw)
            except (RuntimeError, AssertionError, ValueError) as error:
                self._blame_size(blank, error)
                raise
            mean, std = self.model.spec.normalisation(blank.shape[1]) or (None, None)
            told = names(wanted, self.model.spec.labels, len(images))
            made = Visualization(images, wanted, draw, told, responses, mean, std, tuple(model.notes))
            return replace(made, notes=(*made.notes, *_remarks_on_range(made)))

    def evaluate(
        self,
        attribution: Attribution,
        metric: str | type[Metric] | Metric,
        *,
        mask: Masks | None = None,
        **options: Any,
    ) -> PerImage:
        """Score an attribution of this model by a metric, a number per image.

        mask: (b, *space), True on the object, for metrics that compare with one.
        """
        score = registry.make(metric, Metric, **options)
        if isinstance(score, Localization):
            return score(attribution, checked_mask(mask, attribution))
        if not isinstance(score, Faithfulness):
            raise InvalidInput(f"{score!r} is neither a Faithfulness nor a Localization metric: derive it from one.")
        with frozen(self.model.module):
            return score(self.model.explaining(attribution.x), attribution)

    def layers(self, x: Images | None = None) -> list[Layer]:
        """The layers that are maps of the image, in execution order, and why one of them is chosen.

        x: images of the size in question; None is noise of the size that the model was made for.
        """
        images = self._noise() if x is None else x
        check_images(images, self.model)
        with frozen(self.model.module):
            return self.model.layers(images.clone())

    def check(self, x: Images | None = None, target: Any = None) -> list[Finding]:
        """Look for what would make an answer wrong for this model; an empty list is good news. Costs six forwards.

        x: a few typical images, at least two; None is noise of the size that the model was made for.
        """
        images = self._noise() if x is None else x
        check_images(images, self.model)
        with frozen(self.model.module):
            return preflight(self.model, images.clone(), as_target(target, self.model.spec.labels))

    def filters(self, layer: str | nn.Module) -> Filters:
        """The kernels of a convolution, or of a patch embedding, (out, in / groups, *kernel); a copy.

        layer: its dotted name, or the module itself.
        """
        return filters(self.model.module, self._known_layer(layer))

    def feature_maps(self, x: Images, layer: str | nn.Module | None = None) -> FeatureMaps:
        """A layer's activations on its grid, channels first, (b, d, *grid); for token models too.

        layer: a dotted name or module; None is the layer that methods read by default.
        """
        return self._inspected(feature_maps, x, layer)

    def receptive_field(self, layer: str | nn.Module | None = None, x: Images | None = None) -> ReceptiveField:
        """How much of the image a unit of a layer sees: what the operations allow, and what the gradient uses.

        layer: as for `feature_maps`. x: images (b, c, *space) over which the gradient is averaged, one at a time; None
        is noise of the size that the model was made for.
        """
        return self._inspected(receptive_field, self._noise(_NOISE_IMAGES) if x is None else x, layer)

    def attention_gates(self, x: Images) -> list[Gate]:
        """The gates of attention modules (SE, CBAM ...) in the order of the forward; an empty list if there are none.

        A gate is what a map is multiplied by, after a sigmoid or the like: over channels (b, c), over space (b, *grid)
        or over both (b, c, *grid).
        """
        check_images(x, self.model)
        with frozen(self.model.module):
            return self.model.explaining(x).attention_gates(x)

    def __repr__(self) -> str:
        return f"Explainer({type(self.model.module).__name__}, spec={self.model.spec})"

    def _inspected(
        self, look: Callable[[HookedModel, Tensor, str | None], Seen], x: Tensor, layer: str | nn.Module | None
    ) -> Seen:
        check_images(x, self.model)
        name = None if layer is None else self._known_layer(layer)
        with frozen(self.model.module):
            x = x.detach().clone()
            return look(self.model.explaining(x), x, name)

    def _known_layer(self, layer: str | nn.Module) -> str:
        """The dotted name of a layer that the model has."""
        name: str = self._layer_name(layer)
        self.model.layer(name)
        return name

    def _noise(self, images: int = 2) -> Tensor:
        """Images of noise, of the size that the model was made for."""
        if self.model.spec.input_size is None:
            raise InvalidInput("The size of this model's images is not known: pass some, x of shape (b, c, *space).")
        noise = torch.randn(images, *self.model.spec.input_size, generator=torch.Generator().manual_seed(0))
        return noise.to(next(self.model.module.parameters()))

    def _question(self, target: Any, x: Any) -> Target:
        """The target as a Target that fits the images, once both are found in order."""
        question = as_target(target, self.model.spec.labels)
        check_images(x, self.model)
        check_count(question, len(x))
        return question

    def _named_layers(self, options: dict[str, Any]) -> dict[str, Any]:
        return {option: self._layer_name(value) for option, value in options.items()}

    def _blank(self, count: int, size: int | tuple[int, ...] | None) -> Tensor:
        """Images of zeros, as the model takes them."""
        shape = self._image_shape(size)
        if not all(isinstance(side, int) and side > 0 for side in shape) or len(shape) < 2:
            raise InvalidInput(
                f"size={size!r} is no size of images: give (c, *space), such as (3, 224, 224), or a side."
            )
        like = next(p for p in self.model.module.parameters() if p.is_floating_point())
        blank = torch.zeros(count, *shape, device=like.device, dtype=like.dtype)
        check_images(blank, self.model)
        return blank

    def _blame_size(self, blank: Tensor, error: Exception) -> None:
        """Say that the model's own forward does not take images of another size than it was made for."""
        made_for, shape = self.model.spec.input_size, tuple(blank.shape[1:])
        if made_for is not None and shape != tuple(made_for) and any("own forward" in n for n in _told_of(error)):
            raise InvalidInput(
                f"The model does not take images of {shape} ({error}): leave size out, it was made for {made_for}."
            ) from error

    def _image_shape(self, size: int | tuple[int, ...] | None) -> tuple[int, ...]:
        """(c, *space), from what the user and the model's spec say."""
        made_for, mean = self.model.spec.input_size, self.model.spec.mean
        if size is not None and not isinstance(size, int):
            return tuple(size)
        if size is not None and (made_for or mean):
            return (made_for[0], *(size,) * (len(made_for) - 1)) if made_for else (len(mean or ()), size, size)
        if made_for is None or size is not None:
            raise InvalidInput(
                "The shape of this model's images is not known: pass size=(c, *space), such as size=(3, 224, 224)."
            )
        return tuple(made_for)

    def _layer_name(self, value: Any) -> Any:
        """Modules among the options become their dotted names, so that the method's repr tells all."""
        if isinstance(value, list | tuple):
            return tuple(self._layer_name(each) for each in value)
        if not isinstance(value, nn.Module):
            return value
        name = next((name for name, module in self.model.module.named_modules() if module is value), None)
        if not name:
            raise InvalidInput(f"{type(value).__name__}(...) is no layer of this model: give one of its own modules.")
        return name


def _attribution(explain: Method, model: HookedModel, x: Tensor, question: Target) -> Attribution:
    """What the method gives, checked, with all that is needed to read it."""
    scores = explain(model, x, question)
    target = model.resolved(question)
    model.signs.check(explain)
    _check_scores(scores, x, explain)
    scores = precise(scores.detach()).contiguous()
    return Attribution(scores, x, target, explain, (*model.notes, *model.signs.notes(), *_remarks(scores, x.dtype)))


def _several(given: Any, what: str) -> list[Any]:
    """A list of at least one; a lone name is no list of names."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise InvalidInput(f"{what}={given!r} is no list of {what}: write {what}=[...], with at least one.")
    return list(given)


def _check_scores(scores: Any, x: Tensor, method: Method) -> None:
    """Refuse what a method must not return."""
    if not isinstance(scores, Tensor) or scores.ndim != x.ndim or len(scores) != len(x):
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise AttribkitError(
            f"{method!r} returned {got}; a method returns a tensor (b, k, *grid) for its {len(x)} images."
        )
    finite = scores.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise AttribkitError(
            f"{method!r} gave scores that are not finite for images {_where(~finite)}: the model overflows or divides "
            "by zero on them. Look at its outputs; a model of half precision may need float32."
        )


def _told_of(error: Exception) -> list[str]:
    """The notes that an exception has gathered on its way."""
    return getattr(error, "__notes__", [])


def _checked_visualization(made: Any, blank: Tensor, visualizer: Visualizer) -> tuple[Tensor, Tensor]:
    """The images and responses, if they are what a visualizer may return."""
    pair = made if isinstance(made, tuple) else (made,)
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else () for each in pair]
    if not _is_visualization(shapes, tuple(blank.shape)):
        raise AttribkitError(
            f"{visualizer!r} returned tensors of shapes {shapes}; a visualizer returns a pair: images like the "
            f"{tuple(blank.shape)} that it was given, or several times as many, and responses (steps, images)."
        )
    images, responses = pair
    if not bool(images.isfinite().all() & responses.isfinite().all()):
        raise AttribkitError(
            f"{visualizer!r} came to images or responses that are not finite: use a smaller learning rate, or a model "
            "of float32 where it has half precision."
        )
    return images.detach(), responses.detach()


def _is_visualization(shapes: Sequence[tuple[int, ...]], blank: tuple[int, ...]) -> bool:
    """Whether there are one or more images for each blank one, and rows of responses to all of them."""
    if len(shapes) != 2 or shapes[0][1:] != blank[1:] or len(shapes[1]) != 2:
        return False
    return shapes[0][0] == shapes[1][1] > 0 == shapes[0][0] % blank[0] and shapes[1][0] > 0


def _remarks_on_range(made: Visualization) -> list[str]:
    """What the range of the values tells a careful reader."""
    if made.mean is None:
        return ["the model's mean and std are not known: the pictures are stretched to their full range"]
    share = float(((made.pixels() < 0) | (made.pixels() > 1)).float().mean())
    return [f"{share:.0%} of the values lie outside 0 to 1 and are clipped in the pictures"] if share >= 0.005 else []


def _remarks(scores: Tensor, precision: torch.dtype) -> list[str]:
    """What the scores themselves tell a careful reader; precision: that of the model."""
    low, high = scores.flatten(1).aminmax(dim=1)
    largest, limit = torch.maximum(low.abs(), high.abs()), torch.finfo(precision).tiny
    told = {
        "zero": ((largest == 0), "the map says nothing about them"),
        "equal": ((low == high) & (largest != 0), "the map says nothing about them"),
        f"below {limit:.1g}": (
            (largest > 0) & (largest < limit),
            f"{precision} has few digits left there; a saturated probability? ask for the class's logit",
        ),
    }
    return [
        f"all scores are {value} for images {_where(images)}: {why}"
        for value, (images, why) in told.items()
        if bool(images.any())
    ]


def _where(images: Tensor) -> list[int]:
    found: list[int] = images.nonzero().flatten().tolist()
    return found
