"""The built-in methods, registered by the hook that any plugin uses."""

from attribkit.core.method import Method
from attribkit.hookspecs import hookimpl
from attribkit.methods.gradcam import GradCAM
from attribkit.methods.saliency import Saliency


@hookimpl
def attribkit_methods() -> list[type[Method]]:
    """Methods in the order in which tables and figures show them."""
    return [GradCAM, Saliency]
