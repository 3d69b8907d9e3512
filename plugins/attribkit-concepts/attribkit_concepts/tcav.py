"""Tests with concept activation vectors."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import binom, ttest_ind
from torch import Tensor, nn

from attribkit import Explainer, InvalidInput, track

from .arguments import check_choice, check_fraction, check_integer
from .classifier import Cav, held_out, train_cav
from .sensitivity import ConceptSensitivity

Features = Literal["cells", "mean"]

_LEAST = 4  # images of a concept, so that training and test set contain each class
_EQUAL = 1e-4  # range of derivatives, relative to the largest, below which they count as equal
_LEVEL = 0.05  # of the test whether the classifiers are better than chance


@dataclass(frozen=True, eq=False, repr=False)
class Tcav:
    """The sensitivity of a class to a concept, with its control.

    Args:
        scores: For each run, the fraction of the images whose score increases along the concept.
        control_scores: The same for classifiers of random against random images.
        p_value: Of Welch's two-sided t-test that both have the same mean.
        accuracy: Accuracy of the classifier of each run on held-out images.
        control_accuracy: The same for the controls; 0.5 is expected.
        derivatives: Directional derivative of each image's score in each run.
        vectors: Concept activation vector of each run, of unit length.
        layer: Dotted name of the layer.
        target: The target that was scored.
        notes: What the user must know to interpret the numbers.
    """

    scores: Float[Tensor, " runs"]
    control_scores: Float[Tensor, " runs"]
    p_value: float
    accuracy: Float[Tensor, " runs"]
    control_accuracy: Float[Tensor, " runs"]
    derivatives: Float[Tensor, "runs b"]
    vectors: Float[Tensor, "runs features"]
    layer: str
    target: Any
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The mean of `scores`."""
        return float(self.scores.mean())

    @property
    def control_score(self) -> float:
        """The mean of `control_scores`."""
        return float(self.control_scores.mean())

    def __repr__(self) -> str:
        notes = "".join(f"\n  {note}" for note in self.notes)
        return (
            f"Tcav(score {self.score:.2f} +- {float(self.scores.std()):.2f}, random {self.control_score:.2f} +- "
            f"{float(self.control_scores.std()):.2f}, p {self.p_value:.2g}, "
            f"accuracy {float(self.accuracy.mean()):.2f}, {len(self.scores)} runs, "
            f"layer {self.layer!r}, {self.target!r}){notes}"
        )


def tcav(
    explainer: Explainer,
    concept_images: Tensor,
    random_images: Tensor,
    images: Tensor,
    target: Any = None,
    layer: str | nn.Module | None = None,
    runs: int = 20,
    seed: int = 0,
    *,
    features: Features = "cells",
    classifier: Any = None,
    test_fraction: float = 1 / 3,
) -> Tcav:
    """Test whether the score of a class is sensitive to a concept that example images define.

    Each run trains a linear classifier of the layer's activations for n concept and n random images, where n is the
    number of concept images, or half the number of random images if that is smaller. Its unit normal is the concept
    activation vector. The score of a run is the fraction of the images whose target increases along it. Each control
    run uses two disjoint sets of n random images instead.

    Args:
        explainer: The explainer of the model.
        concept_images: Images that contain the concept, at least four.
        random_images: Other images, at least eight; several times as many as concept images make the runs independent.
        images: Images of the class, whose scores are differentiated.
        target: As for `Explainer.attribute`, such as a class.
        layer: Dotted name of the layer, or the module; None means the default layer of the target.
        runs: Number of runs, and of control runs.
        seed: Seed of the random sets, of the splits and of the classifiers.
        features: "cells" uses each channel at each cell of the grid as a feature, as in the paper; "mean" uses the mean
            of each channel, which needs fewer images and does not depend on the position of the concept.
        classifier: A linear classifier of scikit-learn; None means logistic regression.
        test_fraction: Fraction of the images of a run that are held out to measure the accuracy.

    Returns:
        The scores with their control, p-value, accuracies and vectors.

    Raises:
        InvalidInput: If an argument is not valid, or there are too few images.
        UnknownName: If the layer does not exist.
        UnsupportedModel: If the graph does not connect the score with the layer.

    Reference:
        Kim et al., Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors,
        ICML 2018, Eq. 1 and 2.
    """
    check_integer("runs", runs, 2, "the t-test needs several scores")
    check_integer("seed", seed, 0)
    check_choice("features", features, ("cells", "mean"))
    check_fraction("test_fraction", test_fraction)
    name = _resolve_layer(explainer, images, target, layer)
    concept, pool = (
        _activations(explainer, each, name, features, what)
        for each, what in ((concept_images, "concept_images"), (random_images, "random_images"))
    )
    count = _images_per_run(len(concept), len(pool), test_fraction)
    draws = _Draws(concept, pool, count, test_fraction, classifier, seed)
    tested, control = draws.train(runs, control=False), draws.train(runs, control=True)
    derivatives, scored, notes = _derivatives(explainer, images, target, name, [*tested, *control])
    scores = (derivatives > 0).double().mean(1)
    accuracy, control_accuracy = (torch.tensor([cav.accuracy for cav in cavs]) for cavs in (tested, control))
    return Tcav(
        scores[:runs],
        scores[runs:],
        _p_value(scores[:runs], scores[runs:]),
        accuracy,
        control_accuracy,
        derivatives[:runs],
        torch.stack([cav.vector for cav in tested]),
        name,
        scored,
        (
            *notes,
            *_notes_on_accuracy(accuracy, 2 * held_out(count, test_fraction)),
            *_notes_on_runs(runs, count, len(concept), len(pool)),
            *_notes_on_derivatives(derivatives),
            *_notes_on_prefix(explainer, images, name),
        ),
    )


def _resolve_layer(explainer: Explainer, images: Tensor, target: Any, layer: str | nn.Module | None) -> str:
    if layer is not None:
        return explainer.feature_maps(images[:1], layer).layer
    chosen = [each.name for each in explainer.layers(images, target) if each.chosen]
    if len(chosen) != 1:
        raise InvalidInput(
            f"The model has {len(chosen)} default layers for this target ({', '.join(chosen) or 'none'}): choose one "
            "with layer=..."
        )
    return chosen[0]


def _activations(explainer: Explainer, images: Tensor, layer: str, features: Features, what: str) -> Tensor:
    """Return the features of the images, (b, features), float64 on the CPU."""
    values = explainer.feature_maps(images, layer).values.detach().cpu().double()
    if not bool(values.isfinite().all()):
        raise InvalidInput(f"The activations of layer {layer!r} for {what} are not finite: check the images.")
    return values.flatten(1) if features == "cells" else values.flatten(2).mean(2)


def _images_per_run(concept: int, pool: int, test_fraction: float) -> int:
    """Return the number of images of each class in a run; raise InvalidInput for too few images."""
    count = min(concept, pool // 2)
    if count < _LEAST or held_out(count, test_fraction) >= count:
        raise InvalidInput(
            f"A run needs at least {_LEAST} images of each class, some of them for training and some held out: "
            f"concept_images must contain at least {_LEAST} images and random_images {2 * _LEAST}, got {concept} and "
            f"{pool} with test_fraction={test_fraction:.3g}."
        )
    return count


@dataclass(frozen=True, eq=False)
class _Draws:
    """The random sets of the runs."""

    concept: Tensor
    pool: Tensor
    count: int
    test_fraction: float
    classifier: Any
    seed: int

    def train(self, runs: int, *, control: bool) -> list[Cav]:
        """Return a vector for each run; the random sets of concept and control runs are drawn separately."""
        what = "control vectors" if control else "concept vectors"
        return [self._run(run, control) for run in track(range(runs), what)]

    def _run(self, run: int, control: bool) -> Cav:
        generator = np.random.default_rng([self.seed, int(control), run])
        order = generator.permutation(len(self.pool))
        first = self.pool[order[self.count : 2 * self.count]]
        if not control:
            first = self.concept[generator.permutation(len(self.concept))[: self.count]]
        seed = int(generator.integers(2**31))
        return train_cav(first, self.pool[order[: self.count]], self.test_fraction, self.classifier, seed)


def _derivatives(
    explainer: Explainer, images: Tensor, target: Any, layer: str, cavs: list[Cav]
) -> tuple[Tensor, Any, tuple[str, ...]]:
    """Return the derivative of each image's score along each vector, (vectors, b), the resolved target and notes."""
    methods = [ConceptSensitivity(tuple(cav.vector.tolist()), layer) for cav in cavs]
    attributions = explainer.compare(images, methods, targets=[target])
    derivatives = torch.stack([each.scores.cpu().double().flatten(1).sum(1) for each in attributions])
    notes = (note for note in attributions[0].notes if not note.startswith("all scores are"))
    return derivatives, attributions[0].target, tuple(notes)


def _p_value(scores: Tensor, control: Tensor) -> float:
    """Return the p-value of Welch's t-test; for two constants 1 if they are equal and 0 otherwise."""
    if float(scores.std()) == float(control.std()) == 0:
        return float(scores[0] == control[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # loss of precision if one of the two is nearly constant
        return float(ttest_ind(scores.numpy(), control.numpy(), equal_var=False).pvalue)


def _notes_on_accuracy(accuracy: Tensor, tested: int) -> list[str]:
    """Return a note if the mean accuracy, as of one run, may be that of guesses."""
    mean = float(accuracy.mean())
    if binom.sf(round(mean * tested) - 1, tested, 0.5) <= _LEVEL:
        return []
    return [
        f"the classifiers are not better than chance: a mean accuracy of {mean:.2f} on {tested} held-out images has "
        f"p > {_LEVEL}; the vectors do not represent the concept, and the TCAV score cannot be interpreted. Pass "
        "more images, or choose another layer"
    ]


def _notes_on_runs(runs: int, count: int, concept: int, pool: int) -> list[str]:
    notes = []
    if count < concept:
        notes.append(
            f"each run uses {count} of the {concept} concept images, since there are only {pool} random images"
        )
    if runs * 2 * count > pool:
        notes.append(
            f"the runs share random images ({runs} control runs with {2 * count} of {pool}), so they are not "
            "independent and the p-value is too small"
        )
    return notes


def _notes_on_derivatives(derivatives: Tensor) -> list[str]:
    """Return notes on derivatives (vectors, b) that are zero, or that do not depend on the image."""
    zeros = torch.nonzero((derivatives == 0).all(0)).flatten().tolist()
    if zeros:
        return [f"the gradient at the layer is zero for images {zeros}: they count as not positive"]
    low, high = derivatives.aminmax(dim=1)
    if derivatives.shape[1] > 1 and bool((high - low <= _EQUAL * derivatives.abs().amax(1)).all()):
        return ["all images have the same derivative, since the score is linear in the layer: each score is 0 or 1"]
    return []


def _notes_on_prefix(explainer: Explainer, images: Tensor, layer: str) -> list[str]:
    prefix = next((each.layout.prefix for each in explainer.layers(images[:1]) if each.name == layer), 0)
    return [f"the {prefix} tokens before the patches are not part of the activation"] if prefix else []
