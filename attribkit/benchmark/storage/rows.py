"""The rows of a benchmark: one for each image, map and metric."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("method_options", pa.string(), nullable=False),
        pa.field("inverted", pa.bool_(), nullable=False),  # the map was negated: a control of each method
        pa.field("metric", pa.string(), nullable=False),
        pa.field("metric_options", pa.string(), nullable=False),
        pa.field("higher_is_better", pa.bool_()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # what the bootstrap resamples together
        pa.field("category", pa.string()),
        pa.field("subsets", pa.list_(pa.string()), nullable=False),
        pa.field("target", pa.int64()),
        pa.field("label", pa.int64()),
        pa.field("value", pa.float64(), nullable=False),  # NaN where not defined
        pa.field("tie_share", pa.float32()),
        pa.field("floor", pa.float32()),
        pa.field("details", pa.map_(pa.string(), pa.list_(pa.float32()))),
        pa.field("milliseconds", pa.float32()),
        pa.field("forwards", pa.float32()),
        pa.field("peak_mib", pa.float32()),
    ]
)


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of the schema."""
    return pa.Table.from_pylist(list(rows), SCHEMA)
