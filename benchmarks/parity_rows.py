"""The oracle of each method, and the models for which attribkit refuses it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import parity_oracles as oracles
from parity_models import MODELS, Subject
from parity_oracles import Pair

Compare = Callable[[Subject], Pair]


@dataclass(frozen=True)
class Row:
    """A method and its oracle."""

    oracle: str
    compare: Compare | None  # None if attribkit refuses every model
    alone: bool = False  # one small image, for methods with many forwards
    refused: dict[str, str] = field(default_factory=dict)  # reason by model that attribkit refuses
    message: str = ""  # part of the error
    others: dict[str, tuple[Compare, str]] = field(default_factory=dict)  # by model: another oracle, with the reason


def rows() -> dict[str, Row]:
    """Return the rows by method name, in the order of the registry."""
    return _class_activation_maps() | _gradients() | _attention() | _perturbations() | _controls()


def _class_activation_maps() -> dict[str, Row]:
    return {
        "cam": Row(
            f"closed form, and {_captum('LayerGradCam')} times H·W", oracles.cam,
            refused={"vgg16": "three linear layers", "vit_tiny": "layers behind the map"},
            message="cam requires a score that is a weighted sum",
        ),
        "gradcam": _grad_cam("gradcam", "GradCAM"),
        "gradcam++": Row(
            _cams("GradCAMPlusPlus"), _PLUS_PLUS,
            others={
                "vit_tiny": (oracles.gradcam_plus_plus_as_printed, _AS_PRINTED),
                "densenet121": (_PLUS_PLUS, f"{_AT_RELU}, as the formula assumes"),
            },
        ),
        "hirescam": _grad_cam("hirescam", "HiResCAM"),
        "xgradcam": _grad_cam("xgradcam", "XGradCAM", densenet121=(_X_GRAD, f"{_AT_RELU}; {_NEAR_ZERO}")),
        "layercam": _grad_cam("layercam", "LayerCAM"),
        "eigencam": Row(f"{_cams('EigenCAM')}, its sign turned", oracles.eigencam),
        "scorecam": Row(f"{_cams('ScoreCAM')}, without its aligned corners", oracles.scorecam, alone=True),
        "ablationcam": Row(
            _cams("AblationCAM"), oracles.ablationcam, alone=True,
            others={"vit_tiny": (oracles.ablationcam_one_by_one, _ONE_BY_ONE)},
        ),
    }  # fmt: skip


def _gradients() -> dict[str, Row]:
    return {
        "saliency": Row(_captum("Saliency"), oracles.saliency),
        "input_x_gradient": _gradient("input_x_gradient", "InputXGradient"),
        "smoothgrad": Row(f"{_captum('Saliency')} in a loop", oracles.smoothgrad, alone=True),
        "integrated_gradients": Row(
            f"{_captum('IntegratedGradients')}, 50 steps", oracles.integrated_gradients, alone=True
        ),
        "guided_backprop": _gradient("guided_backprop", "GuidedBackprop", _NO_RELU, _NO_RELU_MESSAGE),
        "deconvnet": _gradient("deconvnet", "Deconvolution", _NO_RELU, _NO_RELU_MESSAGE),
        "guided_gradcam": Row(
            f"{_captum('GuidedGradCam')}, bilinear", oracles.guided_gradcam, refused=_NO_RELU, message=_NO_RELU_MESSAGE
        ),
    }


def _attention() -> dict[str, Row]:
    weights, rolled = f"timm {version('timm')}, its unfused attention", "rolled out by hand"
    refused = {model: "no attention" for model in MODELS if model != "vit_tiny"}
    message = "No attention between image tokens was found"
    gates = "by hand, in `tests/tracing/test_attention_gates.py`"
    return {
        "attention": Row(weights, oracles.attention, refused=refused, message=message),
        "attention_rollout": Row(f"{weights}, {rolled}", oracles.attention_rollout, refused=refused, message=message),
        "gradient_rollout": Row(f"{weights}, {rolled}", oracles.gradient_rollout, refused=refused, message=message),
        "attention_gates": Row(
            gates,
            None,
            refused=dict.fromkeys(MODELS, "no gates"),
            message="requires spatial gates, but the model has none",
        ),
    }


def _perturbations() -> dict[str, Row]:
    return {
        "occlusion": Row(_captum("Occlusion"), oracles.occlusion, alone=True),
        "rise": Row("slow loop from the paper", oracles.rise, alone=True),
    }


def _controls() -> dict[str, Row]:
    return {
        "random": Row("closed form", oracles.random_control),
        "centre": Row("closed form", oracles.centre),
        "edges": Row(f"scipy {version('scipy')} `sobel`", oracles.edges),
        "input_norm": Row("closed form", oracles.input_norm),
    }


_NO_RELU, _NO_RELU_MESSAGE = {"mobilenet_v2": "ReLU6, no ReLU", "vit_tiny": "GELU, no ReLU"}, "There is no ReLU"
_AT_RELU = "both read the last ReLU, called as a function by torchvision, in a copy that has it as a module"
_NEAR_ZERO = "before it, totals near 0 let the peer's constant count"
_AS_PRINTED = "eq. 19 as printed; the peer's constant decides where the denominator is near 0"
_ONE_BY_ONE = "slow loop; the peer sets channels of signed layers to minus ten million"
_PLUS_PLUS = partial(oracles.behind_relu, "gradcam++", "GradCAMPlusPlus")
_X_GRAD = partial(oracles.behind_relu, "xgradcam", "XGradCAM")


def _grad_cam(method: str, peer: str, **others: tuple[Compare, str]) -> Row:
    return Row(_cams(peer), partial(oracles.of_pytorch_grad_cam, method, peer), others=others)


def _gradient(method: str, peer: str, refused: dict[str, str] | None = None, message: str = "") -> Row:
    return Row(_captum(peer), partial(oracles.of_captum, method, peer), refused=refused or {}, message=message)


def _cams(peer: str) -> str:
    return f"pytorch-grad-cam {version('grad-cam')} `{peer}`"


def _captum(peer: str) -> str:
    return f"captum {version('captum')} `{peer}`"
