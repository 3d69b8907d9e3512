"""The base class for data sets."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from attribkit._core.errors import InvalidInput
from attribkit.datasets._sample import Sample


@dataclass(frozen=True)
class Dataset(ABC):
    """A sequence of annotated images.

    Subclass it as a frozen dataclass whose fields are the options, set `kind` and implement `read`.
    """

    kind: ClassVar[str]  # the name of the data set, as in make_dataset("coco")

    @abstractmethod
    def read(self) -> Iterable[Sample]:
        """Read the annotations, not the images and masks.

        Returns:
            All samples, in a fixed order.

        Raises:
            UnreadableFile: If a folder or annotations are missing or broken.
        """

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, read once."""
        samples, ids = tuple(self.read()), set[str]()
        if not samples:
            raise InvalidInput(f"The data set {self!r} is empty: check its folder and its options.")
        for sample in samples:
            if sample.id in ids:
                raise InvalidInput(f"The data set {self.kind!r} has two samples with the id {sample.id!r}.")
            ids.add(sample.id)
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def ids(self) -> list[str]:
        """Return the ids of the samples, in order."""
        return [sample.id for sample in self.samples]

    def fingerprint(self) -> str:
        """Return a hash of the data set.

        It changes with a name, the size of an image file or an annotation, and not with the location of the folder.
        """
        digest = hashlib.sha256(self.kind.encode())
        for sample in self.samples:
            digest.update(sample.stamp().encode())
        return digest.hexdigest()
