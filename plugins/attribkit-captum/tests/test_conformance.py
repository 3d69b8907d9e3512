"""The conformance suite of attribkit for every method."""

import attribkit_captum as plugin

import attribkit.testing as testing

SMALL = {
    plugin.IntegratedGradients: {"n_steps": 4},
    plugin.NoiseTunnel: {"nt_samples": 3, "stdevs": 0.1},
    plugin.Occlusion: {"sliding_window_shapes": 16, "strides": 8},
    plugin.FeatureAblation: {"feature_mask": 30},
    plugin.ShapleyValueSampling: {"feature_mask": 30, "n_samples": 3},
    plugin.KernelShap: {"feature_mask": 30, "n_samples": 80, "perturbations_per_eval": 1},
    plugin.Lime: {"feature_mask": 30, "n_samples": 80, "alpha": 1e-5},
    plugin.LayerConductance: {"n_steps": 4},
    plugin.InternalInfluence: {"n_steps": 4},
    plugin.LayerIntegratedGradients: {"n_steps": 4},
}
METHODS = [method(**SMALL.get(method, {})) for method in plugin.METHODS]


@testing.parametrize_with_checks(METHODS)
def test_conformance(instance, check):
    check(instance)
