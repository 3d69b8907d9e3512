"""The printed names of layers: a module, which of its runs in a forward, and which entry of what it returns."""

import re
from dataclasses import dataclass

from attribkit.core.nested import Path

_SUFFIXES = re.compile(r"(?P<module>.*?)(?:@(?P<run>\d+))?(?P<path>(?:\[[^\[\]]+\])*)", re.DOTALL)


@dataclass(frozen=True)
class LayerName:
    """A name as a user writes it: "layer4", "encoder@1" (its second run), "backbone[2]", "backbone[out]"."""

    module: str  # dotted
    run: int | None = None  # from 0; None where the name leaves it open
    path: Path | None = None  # keys of the entry; None where the name leaves it open

    @classmethod
    def parse(cls, text: str, modules: set[str]) -> "LayerName":
        """Read a name; a module whose own dotted name looks like a suffix is taken as it stands."""
        if text in modules:
            return cls(text)
        match = _SUFFIXES.fullmatch(text)
        if match is None:
            return cls(text)
        keys = re.findall(r"\[([^\[\]]+)\]", match["path"])
        path = tuple(int(key) if re.fullmatch(r"-?\d+", key) else key.strip("'\"") for key in keys)
        return cls(match["module"], None if match["run"] is None else int(match["run"]), path or None)

    def __str__(self) -> str:
        run = "" if self.run is None else f"@{self.run}"
        return f"{self.module}{run}{''.join(f'[{key}]' for key in self.path or ())}"


def matches(path: Path, wanted: Path, lengths: dict[Path, int]) -> bool:
    """Whether the keys of an entry are those that are wanted; negative numbers count from the end.

    lengths: how many entries there are below each run of keys.
    """
    if len(path) != len(wanted):
        return False
    for i, (key, other) in enumerate(zip(path, wanted, strict=True)):
        if isinstance(other, int) and other < 0:
            other += lengths.get(path[:i], 0)
        if key != other:
            return False
    return True


def lengths_of(paths: list[Path]) -> dict[Path, int]:
    """For each container of a nested output, one more than the largest number among its keys."""
    lengths: dict[Path, int] = {}
    for path in paths:
        for i, key in enumerate(path):
            if isinstance(key, int):
                lengths[path[:i]] = max(lengths.get(path[:i], 0), key + 1)
    return lengths
