"""The embedded scenes are what they say, and the embedded models are as good as the README says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attribkit import Explainer, load_model, zoo

SCENES = list(zoo.scenes(40, seed=500))


def test_scenes_depend_on_the_seed_alone():
    again = zoo.scene(507)
    assert np.array_equal(again.image, SCENES[7].image)
    assert not np.array_equal(SCENES[8].image, SCENES[7].image)
    assert hashlib.sha256(zoo.scene(0).image.tobytes()).hexdigest()[:16] == "7e18bb4bd5d8bd04"


@pytest.mark.parametrize("scene", SCENES[:10], ids=lambda scene: scene.seed)
def test_a_scene_tells_the_truth(scene):
    assert scene.image.shape == (zoo.SIDE, zoo.SIDE, 3)
    assert 3 <= len(scene.objects) <= 4
    assert [each.marked for each in scene.objects] == [True] + [False] * (len(scene.objects) - 1)
    assert len({each.label for each in scene.objects}) == len(scene.objects)
    covered = np.sum([each.mask for each in scene.objects], axis=0)
    assert covered.max() == 1  # nothing overlaps
    for each in scene.objects:
        left, top, right, bottom = each.box
        rows, columns = np.nonzero(each.mask)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
        outline = scene.image[each.mask]
        colour = 255 if each.marked else 0
        assert (outline == colour).all(axis=1).mean() > 0.1


def test_every_class_appears_at_random_places():
    assert {scene.label for scene in SCENES} == set(range(len(zoo.SHAPES)))
    assert len(zoo.SHAPES) >= 8
    centres = np.array(
        [[(s.target.box[0] + s.target.box[2]) / 2, (s.target.box[1] + s.target.box[3]) / 2] for s in SCENES]
    )
    assert (centres.std(axis=0) > 15).all()


@pytest.mark.parametrize(("name", "accuracy"), [("cnn", 0.95), ("vit", 0.90)])
@pytest.mark.slow
def test_the_models_name_the_marked_object(name, accuracy):
    loaded = load_model(f"zoo:{name}")
    scenes = list(zoo.scenes(200, seed=2_000_000))
    x = torch.stack([loaded.preprocessing(Image.fromarray(scene.image)) for scene in scenes])
    with torch.inference_mode():
        predicted = loaded.model(x).argmax(1)
    right = (predicted == torch.tensor([scene.label for scene in scenes])).float().mean()
    assert right >= accuracy
    weights = Path(zoo.__file__).parent / "weights" / f"{name}.safetensors"
    assert weights.stat().st_size <= 1_500_000
    recorded = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "zoo.json").read_text())
    assert abs(recorded["result"]["held_out_accuracy"][name] - float(right)) < 0.05


def test_distractors_matter(cnn):
    """Moving the white outline to another object changes the answer to that object's class."""
    preprocess = load_model("zoo:cnn").preprocessing
    changed = []
    for scene in SCENES[:20]:
        image = scene.image.copy()
        first, second = scene.objects[:2]
        for each, white in ((first, False), (second, True)):
            edge = each.mask & (image == (255 if each.marked else 0)).all(axis=2)
            image[edge] = 255 if white else 0
        with torch.inference_mode():
            changed.append(int(cnn(preprocess(Image.fromarray(image))[None]).argmax()) == second.label)
    assert np.mean(changed) > 0.8


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_gradcam_finds_the_marked_object(name, request):
    model = request.getfixturevalue(name)
    preprocess = load_model(f"zoo:{name}").preprocessing
    x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in SCENES])
    mask = torch.from_numpy(np.stack([scene.target.mask for scene in SCENES]))
    explainer = Explainer(model)
    attribution = explainer.attribute(x, "gradcam", target=[scene.label for scene in SCENES])
    hits = float(explainer.evaluate(attribution, "pointing_game", mask=mask).mean())
    chance = float(mask.float().mean())
    assert hits > 4 * chance, f"{name}: {hits:.0%} hits, chance {chance:.0%}"


def test_labels_are_the_shapes(cnn):
    x = torch.zeros(1, 3, zoo.SIDE, zoo.SIDE)
    assert Explainer(cnn).attribute(x, target="star").target.index == zoo.SHAPES.index("star")
