"""What all methods share: one image at a time, options by captum's names, seeds, and captum's warnings as notes."""

import inspect
import warnings
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attribkit import GivenImages, HookedModel, Method, OneOrMore, Substrate, Target, substrate_images, track

from .calls import Scoring, Trace, first_score

Baseline = Substrate | GivenImages | Tensor
Baselines = Baseline | OneOrMore[Baseline]

_MOST_ROWS = 16  # images in one forward, if neither the option nor the Explainer states a number
_ACCEPTED_ERROR = 0.01  # of completeness, relative; a larger one is explained
_HARMLESS = (  # captum's warnings about hooks that it removes, and about sizes that this plugin chooses
    "Setting forward, backward hooks",
    "Setting backward hooks on ReLU",
    "Internal batch size cannot be less",
    "This method computes finite differences",
)


@dataclass(frozen=True)
class Call:
    """What captum's class needs for one image.

    Args:
        model: The model, bound to the image.
        target: The target of the image.
        image: The image, (1, c, *space), in float32 or finer, with a gradient.
        scoring: The score of the image as a module.
        arguments: Arguments of captum's class that belong to the image, such as its baselines, (k, c, *space).
    """

    model: HookedModel
    target: Target
    image: Tensor
    scoring: Scoring
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class CaptumMethod(Method, ABC):
    """Base class for methods that run a class of captum on one image at a time.

    The options that captum's constructor or its `attribute` accept are passed on by their names.

    Attributes:
        algorithm: The class of captum.
        advice: For methods whose scores add up to f(x) - f(baseline), what explains a large error of this sum, which a
            note reports; "" for other methods.
        joint: Whether captum requires that several versions of the image run in one forward.
    """

    algorithm: ClassVar[Any]
    advice: ClassVar[str] = ""
    joint: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if "baseline" in _option_names(self):
            object.__setattr__(self, "baseline", _wrap_tensors(getattr(self, "baseline")))  # noqa: B009

    def __call__(self, model: HookedModel, x: Tensor, target: Target) -> Tensor:
        target = model.resolve(target)
        if self.is_joint() and model.depends_on_image(target):
            model.note(
                "the path through the model may depend on the image, and captum runs an image together with its "
                "baselines: the scores are correct only if all of them take the same path"
            )
        copied, trace = self.copied(model)
        arguments = self.arguments(x)
        images = zip(model.one_by_one(target), copied.one_by_one(target), strict=True)
        scores = []
        with warnings_as_notes(model):
            for i, ((one, own), (one_copy, _)) in enumerate(track(images, "images", len(x))):
                scoring = Scoring(one_copy, own, trace, None if self.is_joint() else model.batch_size)
                call = Call(one, own, image_of(one), scoring, {name: rows[i] for name, rows in arguments.items()})
                if trace is not None and trace.is_first:
                    self.check_copy(call, trace, first_score(scoring, trace, call.image, one.score(one.images, own)))
                with seeded(getattr(self, "seed", 0)):
                    scores.append(self.explain(call).detach())
        result = torch.cat(scores).to(torch.promote_types(x.dtype, torch.float32))
        if self.advice and getattr(self, "multiply_by_inputs", True):
            self._note_completeness(model, target, result, arguments["baselines"])
        return result

    def is_joint(self) -> bool:
        """Return whether several versions of the image must run in one forward."""
        return self.joint

    def copied(self, model: HookedModel) -> tuple[HookedModel, Trace | None]:
        """Return the model that captum changes or sets hooks on, and the trace of its calls if it is a copy."""
        return model, None

    def check_copy(self, call: Call, trace: Trace, score: Tensor) -> None:
        """Raise UnsupportedModel for a copy that captum cannot explain, after its first forward.

        Args:
            call: The first image.
            trace: The calls of the modules.
            score: Score of the image, with its graph.
        """

    def arguments(self, x: Tensor) -> dict[str, Any]:
        """Return the arguments of captum's class that belong to an image, as sequences with an item for each image."""
        if "baseline" not in _option_names(self):
            return {}
        kinds: Any = getattr(self, "baseline")  # noqa: B009
        return {"baselines": baselines_of(x, kinds, getattr(self, "seed", 0))}

    def explain(self, call: Call) -> Tensor:
        """Return the scores of one image, (1, k, *grid), in the order of its pixels or of a layer's grid."""
        return self.attribute(call)

    def attribute(self, call: Call) -> Tensor:
        """Return captum's attributions for one image."""
        algorithm, arguments = self.made(call)
        attributions: Tensor = algorithm.attribute(call.image, **arguments)
        return attributions

    def most_rows(self, call: Call) -> int:
        """Return how many versions of the image captum may run at once."""
        return call.model.batch_size or _MOST_ROWS

    def made(self, call: Call) -> tuple[Any, dict[str, Any]]:
        """Return an instance of captum's class, and the arguments of its `attribute`."""
        most = self.most_rows(call)
        options = {name: getattr(self, name) for name in _option_names(self)}
        options |= {"internal_batch_size": most, **call.arguments}
        options["perturbations_per_eval"] = min(options.get("perturbations_per_eval", most), most)
        options["stdevs"] = float(options.get("stdevs", 0))  # captum does not accept integers
        algorithm = self.algorithm(call.scoring, **_accepted(self.algorithm.__init__, options))
        return algorithm, _accepted(self.algorithm.attribute, options)

    def _note_completeness(self, model: HookedModel, target: Target, scores: Tensor, baselines: Tensor) -> None:
        """Note the largest difference between the sum of the scores and f(x) - f(baseline), relative to the latter."""
        x = model.images
        end = model.score(x, target)
        start = torch.stack([model.score(each.to(x.dtype), target) for each in baselines.unbind(1)]).mean(0)
        rounding = torch.finfo(x.dtype).eps * torch.maximum(end.abs(), start.abs())
        expected = end - start
        error = (scores.flatten(1).sum(1) - expected).abs() / torch.maximum(expected.abs(), rounding).clamp(min=1e-12)
        worst = float(error.max())
        advice = f"; {self.advice}" if worst > _ACCEPTED_ERROR else ""
        model.note(
            f"completeness: the sum of the scores differs from f(x) - f(baseline) by at most {worst:.2%}{advice}"
        )


def mean_over_baselines(call: Call, attribute: Callable[[Call], Tensor]) -> Tensor:
    """Return the mean of a function of the call for each of its baselines."""
    singles = [
        replace(call, arguments={**call.arguments, "baselines": each[None]}) for each in call.arguments["baselines"]
    ]
    return torch.stack([attribute(single) for single in singles]).mean(0)


def image_of(model: HookedModel) -> Tensor:
    """Return the image of a bound model as a leaf in float32 or finer."""
    exact = torch.promote_types(model.images.dtype, torch.float32)
    return model.images.detach().to(exact, copy=True).requires_grad_()


def baselines_of(x: Tensor, kinds: Any, seed: int) -> Tensor:
    """Return the baselines of each image, (b, k, c, *space), in float32 or finer; the k-th uses seed + k."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    exact = torch.promote_types(x.dtype, torch.float32)
    return torch.stack([substrate_images(x, kind, seed + i) for i, kind in enumerate(kinds)], 1).to(exact)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random number generators, from which captum draws, and restore them afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def warnings_as_notes(model: HookedModel) -> Iterator[None]:
    """Add the warnings of scikit-learn's solvers to the notes, drop captum's, and repeat those of the model."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for each in caught:
        text = str(each.message)
        if each.category.__module__.startswith("sklearn") or "sklearn" in Path(each.filename).parts:
            model.note(f"the regression reports: {' '.join(text.split())}")
        elif not text.startswith(_HARMLESS):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _option_names(method: CaptumMethod) -> list[str]:
    return [each.name for each in fields(method)]


def _accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a function has parameters for."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


def _wrap_tensors(baseline: Any) -> Any:
    """Return baselines with their tensors as options that can be compared and formatted."""
    if isinstance(baseline, tuple):
        return tuple(map(_wrap_tensors, baseline))
    return GivenImages(baseline) if isinstance(baseline, Tensor) else baseline
