"""Concepts: their targets, coefficients, crops, importance and figure, and what is refused."""

import attribkit_concepts as plugin
import attribkit_concepts.crops as crops
import attribkit_concepts.latent as latent
import pytest
import torch
from PIL import Image
from scipy.optimize import nnls
from torch import nn

import attribkit.testing as testing
import attribkit.zoo as zoo
from attribkit import AttribkitError, Direction, Explainer, InvalidInput, UnknownName, UnsupportedModel, load_model


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network():
    """Two convolutions and a linear head: (b, 3, 16, 16) to 3 classes, with an 8 x 8 grid of 6 channels at layer 3."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
        ).double()  # fmt: skip


def found(samples="positions", k=3, **options):
    return plugin.find_concepts(
        Explainer(network()), noise(4, 3, 16, 16).double(), k, "3", samples=samples, crop=0.5, **options
    )


@pytest.fixture(scope="module")
def stars():
    """Scenes whose marked object is a star, as images for the model of the zoo, and the masks of the stars."""
    model, preprocess = load_model("zoo:cnn")
    scenes = [scene for scene in zoo.scenes(200) if scene.label == zoo.SHAPES.index("star")][:12]
    x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes])
    return Explainer(model), x, torch.stack([torch.from_numpy(scene.target.mask) for scene in scenes])


# Targets and coefficients


def test_concepts_are_targets():
    concepts = found()
    x, explainer = concepts.images, concepts.explainer
    assert len(concepts) == len(list(concepts)) == 3
    assert isinstance(concepts[1], Direction)
    activation = explainer.model.module[:4](x)
    response = (activation * concepts.basis[1].view(-1, 1, 1)).sum(1).mean((1, 2))
    attribution = explainer.attribute(x, "input_x_gradient", target=concepts[1])
    gradient = torch.autograd.grad(
        (explainer.model.module[:4](leaf := x.clone().requires_grad_()) * concepts.basis[1].view(-1, 1, 1)).sum(1)
        .mean((1, 2)).sum(), leaf
    )[0]  # fmt: skip
    torch.testing.assert_close(attribution.scores, x * gradient)
    assert response.shape == (4,)
    assert explainer.attribute(x, "gradcam", target=concepts[0]).heatmap().shape == (4, 16, 16)


def test_concepts_have_unit_length_and_are_in_order():
    concepts = found()
    torch.testing.assert_close(concepts.basis.norm(dim=1), torch.ones(3, dtype=torch.float64))
    means = concepts.coefficients.mean(0).tolist()
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("samples", ["positions", "crops"])
def test_heatmaps_are_non_negative_least_squares(samples):
    concepts = found(samples)
    other = noise(2, 3, 16, 16, seed=3).double()
    heatmaps = concepts.heatmaps(other)
    activation = concepts.explainer.model.module[:4](other).detach()
    assert heatmaps.shape == (2, 3, 8, 8)
    for image, row, column in ((0, 0, 0), (0, 5, 2), (1, 7, 7)):
        expected, _ = nnls(concepts.basis.T.numpy(), activation[image, :, row, column].numpy())
        torch.testing.assert_close(heatmaps[image, :, row, column], torch.from_numpy(expected), rtol=0, atol=1e-10)


def test_coefficients_of_positions_are_the_heatmaps():
    concepts = found()
    expected = concepts.heatmaps().flatten(2).mT.flatten(0, 1)
    torch.testing.assert_close(concepts.coefficients, expected, rtol=0, atol=1e-10)
    activation = concepts.explainer.model.module[:4](concepts.images).detach().flatten(2).mT.flatten(0, 1)
    error = (activation - concepts.coefficients @ concepts.basis).norm() / activation.norm()
    assert concepts.reconstruction_error == pytest.approx(float(error), abs=1e-12)


def test_coefficients_of_crops_are_those_of_their_mean_activation():
    concepts = found("crops")
    box, image = concepts.box_of_sample[4], int(concepts.image_of_sample[4])
    crop = concepts.images[image : image + 1, :, box.top : box.bottom, box.left : box.right]
    large = nn.functional.interpolate(crop, size=(16, 16), mode="bilinear")
    activation = concepts.explainer.model.module[:4](large).detach().mean((0, 2, 3))
    expected, _ = nnls(concepts.basis.T.numpy(), activation.numpy())
    torch.testing.assert_close(concepts.coefficients[4], torch.from_numpy(expected), rtol=0, atol=1e-10)


def test_equal_seeds_give_equal_concepts():
    first, importance = found("crops", seed=3), found("crops", seed=3).importance(1, designs=8, seed=2)
    torch.rand(1)
    again = found("crops", seed=3)
    assert torch.equal(first.basis, again.basis)
    assert torch.equal(importance.values, again.importance(1, designs=8, seed=2).values)
    assert not torch.equal(importance.values, again.importance(1, designs=8, seed=4).values)


def test_the_order_of_the_images_does_not_matter():
    x = noise(4, 3, 16, 16).double()
    first, other = (
        plugin.find_concepts(Explainer(network()), each, 3, "3", samples="positions") for each in (x, x.flip(0))
    )
    torch.testing.assert_close(first.basis, other.basis, rtol=0, atol=1e-3)
    torch.testing.assert_close(first.heatmaps(x), other.heatmaps(x), rtol=0, atol=5e-3)


# Crops


@pytest.mark.parametrize("space", [(10, 16), (7, 7), (128, 96)])
@pytest.mark.parametrize("fraction", [0.2, 2 / 7, 0.9])
def test_crops_cover_the_image(space, fraction):
    boxes = crops.lattice(space, fraction)
    covered = torch.zeros(space, dtype=torch.bool)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] = True
        assert (box.bottom - box.top, box.right - box.left) == crops.crop_sides(space, fraction)
        assert min(box) >= 0
        assert box.bottom <= space[0]
        assert box.right <= space[1]
    assert bool(covered.all())
    assert len(set(boxes)) == len(boxes)


def test_boxes_surround_the_cells_of_a_part_of_the_image():
    boxes = crops.boxes_around_cells((2, 4), ((0.5, 1.0), (0.0, 1.0)), (32, 32), 0.25)
    assert boxes[0] == crops.Box(16, 24, 0, 8)  # around the cell at (20, 4)
    assert boxes[7] == crops.Box(24, 32, 24, 32)
    assert len(boxes) == 8


@pytest.mark.parametrize("samples", ["positions", "crops"])
def test_typical_crops_have_the_largest_coefficients(samples):
    concepts = found(samples)
    best = concepts.crops(1, 4)
    values = [crop.coefficient for crop in best]
    assert values == sorted(values, reverse=True)
    assert values[0] == float(concepts.coefficients[:, 1].max())
    assert len({crop.image for crop in best}) == 4
    for crop in best:
        box = crop.box
        assert torch.equal(crop.pixels, concepts.images[crop.image, :, box.top : box.bottom, box.left : box.right])
        assert crop.coefficient == float(concepts.coefficients[concepts.image_of_sample == crop.image, 1].max())


# Importance


def test_importance_of_a_linear_head_has_a_closed_form():
    """The score is a sum of a term for each concept times its mask, so its index is the share of the squared terms."""
    concepts = found()
    importance = concepts.importance(2, designs=1024)
    weight = concepts.explainer.model.module[-1].weight[2].detach()
    terms = concepts.heatmaps().mean((2, 3)) * (concepts.basis @ weight)
    expected = terms.square() / terms.square().sum(1, keepdim=True)
    torch.testing.assert_close(importance.per_image, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(importance.values, importance.per_image.mean(0))
    torch.testing.assert_close(importance.values, expected.mean(0), rtol=0, atol=0.01)


def test_importance_of_an_inner_layer_is_that_of_masked_activations():
    concepts = plugin.find_concepts(Explainer(network()), noise(2, 3, 16, 16).double(), 3, "1", samples="positions")
    importance = concepts.importance(1, designs=8, sequence="halton", seed=5)
    module, u = concepts.explainer.model.module, concepts.heatmaps()
    masks = plugin.sobol.jansen_design(3, 8, "halton", 5)
    masked = torch.einsum("bkhw,mk,kd->mbdhw", u, masks, concepts.basis)
    scores = module[2:](masked.flatten(0, 1)).unflatten(0, (len(masks), 2))[..., 1].detach().T
    torch.testing.assert_close(importance.per_image, plugin.total_indices(scores, 3), rtol=0, atol=1e-8)
    rebuilt = module[2:](torch.einsum("bkhw,kd->bdhw", u, concepts.basis))[:, 1].detach()
    torch.testing.assert_close(importance.reconstructed, rebuilt, rtol=0, atol=1e-10)
    torch.testing.assert_close(importance.scores, module(concepts.images)[:, 1].detach(), rtol=0, atol=1e-10)


def test_importance_explains_the_predicted_class_by_default():
    concepts = found()
    predicted = concepts.explainer.model.module(concepts.images).argmax(1)
    assert concepts.importance(designs=4).target.index == tuple(predicted.tolist())
    assert plugin.find_concepts(concepts.explainer, concepts.images, 2, "3", 1).importance(designs=4).target.index == 1


def test_a_score_that_ignores_the_concepts_has_no_importance():
    concepts = found()
    importance = concepts.importance(lambda outputs: 0 * outputs[:, 0] + 1, designs=4)
    assert bool(importance.values.isnan().all())
    assert any("does not depend on the concepts" in note for note in importance.notes)


def test_a_coarse_reconstruction_is_noted(stars):
    explainer, x, _ = stars
    coarse = plugin.find_concepts(explainer, x[:4], 2, target=4).importance(designs=4)
    assert any("the reconstruction from the concepts changes the score" in note for note in coarse.notes)
    assert not any("changes the score" in note for note in found(k=6).importance(0, designs=4).notes)


def test_layers_with_other_tokens_are_refused():
    change = latent.LatentActivation(torch.ones(2, 3), "blocks.1", cells=4).masked_by(torch.ones(2))
    with pytest.raises(UnsupportedModel, match=r"'blocks.1' contains tokens without a position"):
        change(torch.ones(1, 3, 5))


# Scenes


def test_a_concept_of_the_scenes_is_the_marked_star(stars):
    explainer, x, masks = stars
    concepts = plugin.find_concepts(explainer, x, 6, target=4, samples="positions")
    assert concepts.layer == "layer4"
    assert concepts.reconstruction_error < 0.4
    maps = nn.functional.interpolate(concepts.heatmaps(), size=masks.shape[1:], mode="bilinear")
    inside = (maps * masks[:, None]).sum((0, 2, 3)) / maps.sum((0, 2, 3))
    share = float(masks.float().mean())
    assert float(inside.max()) > 3 * share
    importance = concepts.importance(designs=16)
    background = int(inside.argmin())
    assert int(importance.values.argmax()) != background


# Figure


def test_the_figure_has_a_row_for_each_concept(tmp_path, stars):
    explainer, x, _ = stars
    concepts = plugin.find_concepts(explainer, x, 3, target=4, samples="positions")
    importance = concepts.importance(designs=4)
    figure = concepts.figure(x[:2], importance=importance, crops=3)
    figure.savefig(tmp_path / "concepts.png")
    axes = figure.axes
    assert len(axes) == 3 * (3 + 2) + 1  # and a colour bar
    order = importance.values.argsort(descending=True).tolist()
    titles = [axes[5 * row].get_ylabel() for row in range(3)]
    assert titles == [f"concept {i}\nimportance {float(importance.values[i]):.2f}" for i in order]
    figure.draw_without_rendering()
    boxes = [ax.yaxis.label.get_window_extent() for ax in axes[:15:5]]
    boxes += [ax.title.get_window_extent() for ax in axes[:5]]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_the_figure_draws_chosen_concepts(stars):
    explainer, x, _ = stars
    concepts = plugin.find_concepts(explainer, x[:2], 3, target=4, samples="positions")
    importance = concepts.importance(lambda outputs: outputs[:, 4] - outputs[:, 0], designs=4)
    figure = concepts.figure(importance=importance, concepts=[2])
    assert "<lambda>" in figure.get_supxlabel()
    assert " at 0x" not in figure.get_supxlabel()
    assert figure.axes[0].get_ylabel().startswith("concept 2\n")
    with pytest.raises(InvalidInput, match="importance has 3 values for 2 concepts"):
        plugin.find_concepts(explainer, x[:2], 2).figure(importance=concepts.importance(designs=4))


# What is refused, and what is left as found


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer": "2"}, r"'2' are negative, down to -.* choose one of '1', '3'"),
        ({"layer": "5"}, "does not have a grid"),
        ({"k": 0}, "k must be an integer >= 1, got 0"),
        ({"k": 7}, "k must be at most 6, since layer '3' has 6 channels and there are 16 samples, got 7"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"samples": "patches"}, "samples must be one of 'crops', 'positions', got 'patches'"),
        ({"crop": 1.5}, "crop must be a number > 0 and < 1, got 1.5"),
        ({"iterations": 0}, "iterations must be an integer >= 1"),
        ({"images": torch.zeros(1, 3, 16)}, r"shape \(b, c, h, w\), at least one, got shape \(1, 3, 16\)"),
        ({"images": torch.full((1, 3, 16, 16), torch.nan)}, "NaN"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    arguments = {"images": noise(1, 3, 16, 16), "k": 2, "layer": "3", "crop": 0.3} | changed
    with pytest.raises(InvalidInput, match=message):
        plugin.find_concepts(Explainer(network().float()), **arguments)


def test_unknown_layers_and_models_without_a_relu_are_refused():
    with pytest.raises(UnknownName, match="No layer is named 'layer9'"):
        plugin.find_concepts(Explainer(network()), noise(1, 3, 16, 16).double(), 2, "layer9")
    model, _ = load_model("zoo:vit")
    with pytest.raises(InvalidInput, match="a non-negative factorisation needs a layer after a ReLU: choose one of 'p"):
        plugin.find_concepts(Explainer(model), noise(1, 3, 128, 128), 2)


def test_dead_layers_and_other_images_are_refused():
    model = network()
    nn.init.zeros_(model[2].weight)
    nn.init.constant_(model[2].bias, -1)
    with pytest.raises(InvalidInput, match="'3' are all zero"):
        plugin.find_concepts(Explainer(model), noise(1, 3, 16, 16).double(), 2, "3")
    concepts = found()
    with pytest.raises(InvalidInput, match="n must be at most the number of images, 4, got 5"):
        concepts.crops(0, 5)
    with pytest.raises(InvalidInput, match="index from 0 to 2, got 3"):
        _ = concepts[3]
    with pytest.raises(InvalidInput, match="designs must be a power of two"):
        concepts.importance(designs=6)


def test_a_factorisation_that_does_not_converge_is_noted():
    assert any("did not converge in iterations=1" in note for note in found(iterations=1).notes)


def test_the_model_is_left_as_found():
    explainer, x = Explainer(testing.tiny_cnn()), noise(3, 3, 16, 16)
    model = explainer.model.module
    before, copy = testing.model_state(model), x.clone()
    concepts = plugin.find_concepts(explainer, x, 2, "4")
    concepts.importance(1, designs=4)
    concepts.heatmaps()
    assert not testing.changes(before, testing.model_state(model))
    assert torch.equal(x, copy)
    with pytest.raises(AttribkitError):
        plugin.find_concepts(explainer, x, 2, "3")
    assert not testing.changes(before, testing.model_state(model))


@pytest.mark.parametrize("method", [latent.ConceptCoefficients, latent.MaskedConceptScores])
def test_internal_methods_satisfy_the_contract(method):
    basis = tuple(map(tuple, torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).tolist()))
    masks = () if method is latent.ConceptCoefficients else (4, "sobol", 0)
    testing.check_method(method("4", basis, *masks))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    concepts = plugin.find_concepts(
        Explainer(network().to(dtype)), noise(3, 3, 16, 16).to(dtype), 3, "3", samples="positions"
    )
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert concepts.heatmaps().dtype == expected
    assert bool(concepts.importance(0, designs=4).values.isfinite().all())
