"""The numbers that belong together."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from attribkit.benchmark.statistics.arrays import Categories, Groups, PerSample, Present
from attribkit.benchmark.statistics.roles import role

ALL = "all"


class Contestant(NamedTuple):
    """A method's maps, or their negatives."""

    method: str
    inverted: bool


@dataclass(frozen=True, eq=False)
class Question:
    """What one metric says of the maps of one model on one set of images."""

    model: str
    subset: str
    kind: str
    metric: str
    higher_is_better: bool | None
    contestants: tuple[Contestant, ...]  # k of them, by name
    values: PerSample
    present: Present  # there is a row
    floors: PerSample  # what unrelated maps get; NaN where not given
    groups: Groups
    categories: Categories
    identities: tuple[str, ...]  # of the groups

    @property
    def direction(self) -> float:
        """1 where higher is better, -1 where lower is, NaN where neither is."""
        return {True: 1.0, False: -1.0, None: float("nan")}[self.higher_is_better]

    def upright(self) -> list[int]:
        """The contestants that are not inverted."""
        return [k for k, contestant in enumerate(self.contestants) if not contestant.inverted]

    def competing(self) -> list[int]:
        """The methods that have a number: no controls, no negatives, not the truth."""
        methods = [k for k in self.upright() if role(self.contestants[k].method) == "method"]
        return [k for k in methods if not np.isnan(self.values[k]).all()]

    def among(self, chosen: Bool[np.ndarray, " n"], subset: str) -> "Question | None":
        """The same question of some of the samples; None where there are none."""
        if not chosen.any():
            return None
        present = self.present[:, chosen]
        kept = np.flatnonzero(present.any(1))
        old, groups = np.unique(self.groups[chosen], return_inverse=True)
        return Question(
            model=self.model,
            subset=subset,
            kind=self.kind,
            metric=self.metric,
            higher_is_better=self.higher_is_better,
            contestants=tuple(self.contestants[k] for k in kept),
            values=self.values[kept][:, chosen],
            present=present[kept],
            floors=self.floors[kept][:, chosen],
            groups=groups.astype(np.int64),
            categories=self.categories[chosen],
            identities=tuple(self.identities[group] for group in old),
        )
