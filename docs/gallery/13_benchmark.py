r"""
A benchmark with intervals
==========================

**Question**: is one method better than another on a data set, or is the difference within the uncertainty?

A benchmark explains a data set by several methods, scores each map by several metrics, and reports means with bootstrap intervals. The
controls and the negative of each map always take part. ``attribkit benchmark run.toml`` does the same from a file, on a laptop or on a
cluster: :doc:`/benchmark`.
"""

import tempfile
from pathlib import Path

from attribkit.benchmark import benchmark, summarise

folder = Path(tempfile.mkdtemp())
(folder / "run.toml").write_text(f"""
name = "scenes"
output = "{(folder / "run").as_posix()}"
threads = 1
models = ["zoo:cnn"]
methods = ["gradcam", "layercam", "saliency"]
oracle = false

[data]
name = "scenes"
options = {{count = 12}}

[[metrics]]
name = "relevance_mass"

[[metrics]]
name = "insertion"
options = {{steps = 8}}
""")
results = benchmark(folder / "run.toml")
print(f"{results.rows.num_rows} rows, {len(results.failures)} failures")
summary = summarise(results.rows)

# %%
# The mean of each method with its 95 % interval:

from attribkit.figures import bars

bars(summary, width="cvpr-text")

# %%
# Differences on the same images are more sensitive than two intervals; ``p_holm`` is corrected for the number of comparisons.

for each in summary.comparisons:
    if each.metric == "insertion" and {each.first, each.second} <= {"gradcam", "layercam", "saliency"}:
        low, high = each.difference.low, each.difference.high
        print(f"{each.first} - {each.second}: {each.difference.value:+.3f} [{low:+.3f}, {high:+.3f}], p = {each.p_holm:.3f}")

# %%
# **What to see**: controls, and the mask itself (*truth*), are grey. By the mass on the object, saliency (*Gradient*) is ahead of both
# class activation maps, whose coarse cells extend beyond it. By insertion the three methods are equal within the intervals. A Gaussian
# at the centre and an edge filter, which never see the model, reach an insertion of about 0.6: without the controls, such numbers
# would be hard to interpret.
