"""What the metrics say of maps whose worth is known, on scenes whose truth is known; each test prints its table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import bootstrap

from attribkit import Explainer, load_model, zoo
from attribkit.metrics._curves import InsertionMinusDeletion

pytestmark = pytest.mark.slow

METHODS = {
    "gradcam": {},
    "integrated_gradients": {"steps": 16},
    "occlusion": {"patch": 8, "stride": 8},
}
CONTROLS = {"random": {}, "centre": {}, "edges": {}, "constant": {}, "input_norm": {}}
GAIN = InsertionMinusDeletion(steps=14)
LOCALIZATION = ["pointing_game", "relevance_mass"]
SCENES, FEW, HELD_OUT = 160, 64, 5_000


class Stage:
    """A trained model, scenes that it was not trained on, and maps of them."""

    def __init__(self, name):
        self.name = name
        model, preprocessing = load_model(f"zoo:{name}")
        self.explainer = Explainer(model, batch_size=32)
        scenes = list(zoo.scenes(SCENES, HELD_OUT))
        self.x = torch.stack([preprocessing(Image.fromarray(scene.image)) for scene in scenes])
        self.labels = torch.tensor([scene.label for scene in scenes])
        self.mask = torch.from_numpy(np.stack([scene.target.mask for scene in scenes]))
        self.other = torch.from_numpy(np.stack([scene.objects[1].mask for scene in scenes]))  # of another class
        self.maps = {
            method: self.explainer.attribute(self.x, method, target=self.labels, **options)
            for method, options in (METHODS | CONTROLS).items()
        }

    def with_scores(self, scores):
        """A map that was made by hand."""
        return replace(self.maps["random"], scores=scores)

    def measured(self, maps, metrics, scenes=SCENES):
        """The numbers of each metric and map, (images,), of the first so many scenes."""
        some = [each[:scenes] for each in maps.values()]
        found = self.explainer.measure(some, metrics, mask=self.mask[:scenes])
        return {each.metric.name: dict(zip(maps, each.values.double(), strict=True)) for each in found}


@pytest.fixture(scope="module", params=["cnn", "vit"])
def stage(request):
    return Stage(request.param)


def interval(values):
    """The mean, and the bounds of its bootstrap interval."""
    values = values[~values.isnan()].numpy()
    if np.ptp(values) == 0:
        return (values[0],) * 3
    found = bootstrap((values,), np.mean, n_resamples=5_000, method="percentile", rng=0).confidence_interval
    return values.mean(), found.low, found.high


def told(table):
    """The table with its intervals, printed."""
    found = {metric: {name: interval(values) for name, values in rows.items()} for metric, rows in table.items()}
    for metric, rows in found.items():
        print(f"\n{metric}")
        for name, (mean, low, high) in sorted(rows.items(), key=lambda row: -row[1][0]):
            print(f"  {name:24} {mean:7.3f} [{low:.3f}, {high:.3f}]")
    return found


def test_methods_beat_every_control(stage):
    """But for one pair: the point of Grad-CAM on the ViT, whose maps are coarse and whose value is in the mass.

    The scene's object is outlined in white, so that edges are a strong control of the pointing game.
    """
    for metric, rows in told(stage.measured(stage.maps, LOCALIZATION)).items():
        for method in METHODS:
            weak = (stage.name, method, metric) == ("vit", "gradcam", "pointing_game")
            rivals = ("random", "constant", "centre") if weak else CONTROLS
            best = max(rows[control][2] for control in rivals)
            assert rows[method][1] > best, f"{method} does not beat every control in {metric}"


def test_a_reversed_map_is_worse_than_chance(stage):
    maps = {f"reversed {name}": replace(stage.maps[name], scores=-stage.maps[name].scores) for name in METHODS}
    maps |= {name: stage.maps[name] for name in (*METHODS, "random")}
    (rows,) = stage.measured(maps, [GAIN], FEW).values()
    told({GAIN.name: rows})
    for name in METHODS:
        assert interval(rows[f"reversed {name}"] - rows["random"])[2] < 0
        assert interval(rows[name] - rows["random"])[1] > 0


def test_noise_is_punished_step_by_step(stage):
    metrics = [GAIN, "relevance_mass", "relevance_rank", "localization_auc"]
    heatmap = stage.maps["occlusion"].heatmap()[:, None]
    spread = (heatmap - heatmap.mean((2, 3), keepdim=True)) / heatmap.std((2, 3), keepdim=True)
    noise = torch.randn(spread.shape, generator=torch.Generator().manual_seed(0))
    shares = (0.0, 0.3, 0.6, 0.8, 1.0)
    maps = {f"{share:.0%} noise": stage.with_scores((1 - share) * spread + share * noise) for share in shares}
    for metric, rows in told(stage.measured(maps, metrics, FEW)).items():
        means = [rows[name][0] for name in maps]
        assert means == sorted(means, reverse=True), f"{metric} does not fall with the noise"


def test_a_fraud_is_ranked_last(stage):
    """A method that shows the object of another class: sure of itself, on an object, and wrong."""
    maps = {name: stage.maps[name] for name in METHODS} | {
        "fraud": stage.with_scores(stage.other[:, None].float()),
        "random": stage.maps["random"],
    }
    metrics = [GAIN, *LOCALIZATION, "relevance_rank", "localization_auc"]
    for metric, rows in told(stage.measured(maps, metrics, FEW)).items():
        worst = min(rows, key=lambda name: rows[name][0])
        assert worst == "fraud", f"{metric} ranks {worst} below the fraud"
