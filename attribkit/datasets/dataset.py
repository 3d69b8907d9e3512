"""What the author of a data set writes."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from attribkit.core.errors import InvalidInput
from attribkit.datasets.sample import Sample


@dataclass(frozen=True)
class Dataset(ABC):
    """Images and what annotators say of them; subclass as a frozen dataclass whose fields are the options."""

    kind: ClassVar[str]  # what users write: kind = "coco"

    @abstractmethod
    def read(self) -> Iterable[Sample]:
        """All samples, in an order that stays; annotations are read, images and masks are not.

        Raises UnreadableFile for a folder or annotations that are missing or broken.
        """

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, read once."""
        samples, seen = tuple(self.read()), set[str]()
        if not samples:
            raise InvalidInput(f"The data set {self!r} holds no sample: look at its folder and its options.")
        for sample in samples:
            if sample.id in seen:
                raise InvalidInput(f"The data set {self.kind!r} has two samples {sample.id!r}: ids must differ.")
            seen.add(sample.id)
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def ids(self) -> list[str]:
        """Of the samples, in their order."""
        return [sample.id for sample in self.samples]

    def fingerprint(self) -> str:
        """Changes with a name, the size of an image's file, or an annotation; not with the folder's place."""
        digest = hashlib.sha256(self.kind.encode())
        for sample in self.samples:
            digest.update(sample.stamp().encode())
        return digest.hexdigest()
