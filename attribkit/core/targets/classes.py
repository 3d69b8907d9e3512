"""How classes are told: by an index or a label, one for all images or one for each."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName

Classes = Any  # a class index or label; or one per image, as a sequence, array or tensor
Labels = Sequence[str] | Callable[[], Sequence[str]] | None  # the names of the classes in order, or what makes them


def plain(classes: Any) -> Any:
    """An int or label, or a tuple of them, out of all that people write."""
    if isinstance(classes, np.ndarray | Tensor):
        classes = classes.tolist()
    if isinstance(classes, str) or (isinstance(classes, int | np.integer) and not isinstance(classes, bool)):
        return classes if isinstance(classes, str) else int(classes)
    if isinstance(classes, Sequence) and classes:
        told = tuple(plain(each) for each in classes)
        if not any(isinstance(each, tuple) for each in told):
            return told
    raise InvalidInput(
        f"target={classes!r} is no class: give a class index, a label name, one of these per image, a Target or a "
        "function of the model's outputs."
    )


def indices(classes: Any, labels: Labels) -> Any:
    """The same with every label exchanged for the index of its class."""
    names = functools.cache(lambda: labels() if callable(labels) else labels)  # read only if there is a label

    def index(one: Any) -> Any:
        return _labelled(one, names()) if isinstance(one, str) else one

    return tuple(index(each) for each in classes) if isinstance(classes, tuple) else index(classes)


def one_count(target: object, *fields: Any) -> int | None:
    """How many images the fields of a target speak of, each a tuple or something for all of them."""
    counts = {len(each) for each in fields if isinstance(each, tuple)}
    if len(counts) > 1:
        raise InvalidInput(f"{target} names different numbers of classes: give as many of each.")
    return counts.pop() if counts else None


def _labelled(name: str, labels: Sequence[str] | None) -> int:
    """The class of a label: its whole name, or one of the synonyms in it where only one class has that."""
    if labels is None:
        raise InvalidInput(
            f"target={name!r} is a label name, and this model's labels are not known: give the class index, or "
            "Explainer(model, spec=ModelSpec(labels=[...]))."
        )
    wanted = name.strip().lower()
    whole = [i for i, label in enumerate(labels) if label.lower() == wanted]
    synonyms = [i for i, label in enumerate(labels) if wanted in label.lower().split(", ")]
    found = whole or synonyms
    if len(found) > 1:
        raise AttribkitError(f"Several classes are named {name!r}: {found}; give the index of one.")
    if not found:
        raise UnknownName("label", name, labels)
    return found[0]
