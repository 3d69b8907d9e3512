"""Concept activation vectors: the normals of linear classifiers of activations."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import clone  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor

from attribkit import InvalidInput

_MOST_ITERATIONS = 1000


class Cav(NamedTuple):
    """A concept activation vector."""

    vector: Tensor  # (features,), float64, of unit length; it points to the concept
    accuracy: float  # on the held-out activations


def train_cav(concept: Tensor, others: Tensor, test_fraction: float, classifier: Any, seed: int) -> Cav:
    """Train a linear classifier of two sets of activations, and measure its accuracy on a part that is held out.

    The activations are divided by their root mean square norm, so that the regularisation does not depend on their
    unit, which does not change the direction of the normal.

    Args:
        concept: Activations of the concept, (n, features).
        others: Activations of other images, (n, features).
        test_fraction: Fraction of each set that is held out.
        classifier: A linear classifier of scikit-learn; None means logistic regression.
        seed: Seed of the split, and of the classifier if it draws random numbers.

    Raises:
        InvalidInput: If the classifier does not have one coefficient for each feature.
    """
    generator = np.random.default_rng(seed)
    scale = torch.cat([concept, others]).square().sum(1).mean().sqrt().clamp(min=torch.finfo(concept.dtype).tiny)
    parts = [_split((each / scale).numpy(), test_fraction, generator) for each in (others, concept)]
    model = _seeded(LogisticRegression(max_iter=_MOST_ITERATIONS) if classifier is None else clone(classifier), seed)
    fit, test = (_labelled(each) for each in zip(*parts, strict=True))
    model.fit(*fit)
    normal = np.asarray(getattr(model, "coef_", ())).reshape(-1)
    if len(normal) != concept.shape[1]:
        raise InvalidInput(
            f"classifier must be linear, with one coefficient in coef_ for each of {concept.shape[1]} features, got "
            f"{classifier!r}: pass LogisticRegression(), SGDClassifier() or another linear classifier."
        )
    accuracy = float(np.mean(np.asarray(model.predict(test[0])) == test[1]))
    vector = torch.from_numpy(normal.astype(np.float64))
    return Cav(vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny), accuracy)


def held_out(count: int, test_fraction: float) -> int:
    """Return how many of a number of images are held out, at least one."""
    return max(1, round(count * test_fraction))


def _split(activations: np.ndarray, test_fraction: float, generator: np.random.Generator) -> tuple[Any, Any]:
    """Return the activations for training and for testing, in random order."""
    shuffled = activations[generator.permutation(len(activations))]
    test = held_out(len(activations), test_fraction)
    return shuffled[test:], shuffled[:test]


def _labelled(sets: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return activations of two sets together, and the index of the set of each of them."""
    return np.concatenate(sets), np.repeat([0, 1], [len(each) for each in sets])


def _seeded(model: Any, seed: int) -> Any:
    return model.set_params(random_state=seed) if "random_state" in model.get_params() else model
