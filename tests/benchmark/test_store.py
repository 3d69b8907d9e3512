"""The files of a run: what is read back is what was saved."""

import pytest
import torch

from attribkit.benchmark._settings.plan import WorkUnit
from attribkit.benchmark._store import Store

UNIT = WorkUnit("a model", "a method", 0)


@pytest.mark.parametrize("extent", [None, ((0.0, 0.75), (0.125, 1.0))])
def test_maps_and_their_extent(tmp_path, extent):
    store = Store(tmp_path, {"models": {UNIT.model: {}}, "methods": {UNIT.method: {}}})
    scores = torch.randn(2, 1, 3, 4)
    store.save_maps(UNIT, scores, ["a", "b"], "Method()", extent)
    assert store.extent(UNIT) == extent
    assert torch.equal(torch.stack([store.maps(UNIT)[name] for name in ("a", "b")]), scores)
