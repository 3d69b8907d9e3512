"""How far the units of a map see along an axis of the image."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Span:
    """Unit i sees the pixels first + i * stride to last + i * stride; those outside of the image are padding."""

    first: int
    last: int
    stride: int  # pixels between neighbours

    @property
    def size(self) -> int:
        """Pixels that a unit sees."""
        return self.last - self.first + 1

    def through(self, kernel: int, stride: int, before: int, dilation: int) -> "Span":
        """What a window of these units sees, the first of which starts so many units before unit 0.

        Size: R + (K - 1) * dilation * S (Araujo, Norris and Sim, Distill 2019, eq. 2); stride: S * stride.
        """
        first = self.first - before * self.stride
        last = self.last + ((kernel - 1) * dilation - before) * self.stride
        return Span(first, last, self.stride * stride)

    def moved(self, units: int) -> "Span":
        """The same, counted from another unit."""
        return replace(self, first=self.first + units * self.stride, last=self.last + units * self.stride)


@dataclass(frozen=True)
class Whole:
    """Every unit sees all of the axis."""

    because: str  # of which operation, and where


@dataclass(frozen=True)
class Unknown:
    """How far a unit sees cannot be told."""

    because: str


Reach = Span | Whole | Unknown


def joined(one: Reach, other: Reach) -> Reach:
    """What a unit sees that reads both."""
    if isinstance(one, Span) and isinstance(other, Span):
        if one.stride != other.stride:
            return Unknown("branches of different strides meet")
        return Span(min(one.first, other.first), max(one.last, other.last), one.stride)
    return next(each for kind in (Whole, Unknown) for each in (one, other) if isinstance(each, kind))
