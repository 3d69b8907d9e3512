"""Which class of the model a name of the data set means."""

from collections.abc import Mapping, Sequence
from typing import Literal

from attribkit.core.errors import InvalidInput, UnknownName

Labels = Mapping[str, int] | Sequence[str] | Literal["own"] | None


def model_classes(labels: Labels, own: Sequence[str]) -> dict[str, int | None]:
    """The model's class of each name that is explained; None where it is not known.

    labels: a mapping of names to the model's classes, or the names in the order of its classes; names that it leaves
    out are not explained. "own" is the data set's own numbering. None explains all, and knows the class of none.
    """
    if labels is None:
        return dict.fromkeys(own)
    if labels == "own":
        return {name: index for index, name in enumerate(own)}
    if isinstance(labels, str) or not isinstance(labels, Mapping | Sequence):
        raise InvalidInput(
            f"labels={labels!r} must be a mapping of names to the model's classes, a list of names, or 'own'."
        )
    told = labels if isinstance(labels, Mapping) else {name: index for index, name in enumerate(labels)}
    for name, index in told.items():
        if name not in own:
            raise UnknownName("class of the data set", str(name), own)
        if not isinstance(index, int) or index < 0:
            raise InvalidInput(f"labels[{name!r}] = {index!r} is no class of a model: give an index from 0.")
    return {name: told[name] for name in own if name in told}
