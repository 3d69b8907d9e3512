"""Blur integrated gradients for attribkit."""

from dataclasses import dataclass

from attribkit import Method, PositiveFloat, PositiveInt, hookimpl


@dataclass(frozen=True)
class BlurIG(Method):
    """Gradients along the path on which an image comes into focus; the scores sum to what focus adds to the target."""

    name = "blurig"
    source = "Xu et al., Attribution in Scale and Space, CVPR 2020"
    max_sigma: PositiveFloat = 50.0  # pixels; standard deviation of the blur at the start of the path
    steps: PositiveInt = 20  # equal in the square root of sigma; one forward and backward each

    def __call__(self, model, x, target):
        def at(step):
            scale = max(self.max_sigma * (1 - step / self.steps) ** 2, 1e-3)
            places = (x.new_tensor(range(n)) / scale for n in x.shape[-2:])
            rows, columns = ((-((i[:, None] - i) ** 2) / 2).softmax(1) for i in places)
            return rows @ x @ columns.mT

        return sum((at(i + 1) - at(i)) * model.gradient(at(i + 0.5), target) for i in range(self.steps))


@hookimpl
def attribkit_methods():
    return [BlurIG]
