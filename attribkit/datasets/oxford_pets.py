"""The Oxford-IIIT pets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attribkit.datasets.annotations import LabelMap, annotation_errors, existing_folder, list_entries, model_classes
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.sample import Sample
from attribkit.datasets.sources import MaskFile, PhotographFile

_PET, _BACKGROUND, _BORDER = 1, 2, 3  # in the trimaps


@dataclass(frozen=True)
class OxfordPets(Dataset):
    """Cats and dogs of 37 breeds with their outlines (Parkhi et al., CVPR 2012)."""

    kind: ClassVar[str] = "oxford_pets"

    root: str | Path  # with images, annotations/trimaps and annotations/test.txt
    split: str = "test"  # a list in annotations
    border: bool = False  # the band along the outline, which annotators left open, belongs to the pet
    labels: LabelMap = None  # breed, such as "beagle" -> the model's class; "own": the list's, from 0; None: not known

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        path = root / "annotations" / f"{self.split}.txt"
        with annotation_errors(path):
            pets = [(line.split()[0], int(line.split()[1])) for line in list_entries(path)]
        breeds = {number: _breed(name) for name, number in sorted(pets, key=lambda pet: pet[1])}
        asked = model_classes(self.labels, list(breeds.values()))
        for name, number in pets:
            if breeds[number] in asked:
                yield self._sample(root, name, breeds[number], asked[breeds[number]])

    def _sample(self, root: Path, name: str, breed: str, label: int | None) -> Sample:
        on = {_PET, _BORDER} if self.border else {_PET}
        trimap = root / "annotations" / "trimaps" / f"{name}.png"
        return Sample(
            id=name,
            group=name,
            image_source=PhotographFile(root / "images" / f"{name}.jpg"),
            label=label,
            mask_source=MaskFile(trimap, frozenset(on), frozenset({_PET, _BACKGROUND, _BORDER})),
            category=breed,
        )


def _breed(name: str) -> str:
    return name.rsplit("_", 1)[0]
