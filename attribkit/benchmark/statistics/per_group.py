"""One number per image, for tests that take images for independent."""

import numpy as np
from jaxtyping import Float64

from attribkit.benchmark.statistics.arrays import Groups, PerSample


def group_means(values: PerSample, groups: Groups) -> Float64[np.ndarray, "k g"]:
    """Means of each group's samples that are defined; NaN where it has none."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    defined = ~np.isnan(values)
    sums = np.add.reduceat(np.where(defined, values, 0.0), starts, axis=1)
    with np.errstate(invalid="ignore"):
        return sums / np.add.reduceat(defined.astype(np.int64), starts, axis=1)
