"""Captions: the method with its options, the target and the layer of an attribution of one image."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from attribkit import Attribution, ClassLogit, Method

_LAYER_NOTE = re.compile(r"layer=('[^']*'|\([^)]*\)): ")  # the note that names the layer that was chosen


def caption(attribution: Attribution, labels: Sequence[str] = ()) -> str:
    """Return a line such as "gradcam, class 4 (tabby), layer layer4".

    Args:
        attribution: An attribution of one image.
        labels: Names of the classes, by their index.

    Returns:
        The method with the options that differ from their defaults, the target, and the layer if the method reads one.
    """
    layers = layer_names(attribution)
    kind = "layer" if len(layers) == 1 else "layers"
    layer = [f"{kind} {', '.join(layers)}"] if layers else []
    return ", ".join([method_name(attribution), target_name(attribution, labels), *layer])


def method_name(attribution: Attribution) -> str:
    """Return the name of the method with the options that differ from their defaults; the layer is left out."""
    method = attribution.method
    if not isinstance(method, Method):
        return method.text
    options = ", ".join(_changed_options(method))
    return f"{method.name}({options})" if options else method.name


def target_name(attribution: Attribution, labels: Sequence[str] = ()) -> str:
    """Return the target of an attribution of one image: its class, or the repr of another target."""
    target = attribution.target
    if not isinstance(target, ClassLogit):
        return repr(target)
    (index,) = target.index if isinstance(target.index, tuple) else (target.index,)
    has_label = isinstance(index, int) and 0 <= index < len(labels)
    return f"class {index} ({labels[index]})" if has_label else f"class {index}"


def layer_names(attribution: Attribution) -> list[str]:
    """Return the layers that the method read: those of its options, or those that its notes name."""
    layer = getattr(attribution.method, "layer", None)
    if layer is not None:
        return [layer] if isinstance(layer, str) else list(layer)
    chosen = [ast.literal_eval(match[1]) for note in attribution.notes if (match := _LAYER_NOTE.match(note))]
    return list(dict.fromkeys(name for each in chosen for name in ([each] if isinstance(each, str) else each)))


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names, with "_2", "_3" ... appended to repeated ones."""
    unique: list[str] = []
    for name in names:
        count, candidate = 1, name
        while candidate in unique:
            count += 1
            candidate = f"{name}_{count}"
        unique.append(candidate)
    return unique


def _changed_options(method: Method) -> Iterator[str]:
    """Yield each option, except for the layer, that differs from its default."""
    options: tuple[Field[Any], ...] = fields(method)  # type: ignore[arg-type]  # every method is a dataclass
    for option in options:
        value = getattr(method, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if option.name != "layer" and option.repr and repr(value) != repr(default):
            yield f"{option.name}={value!r}"
