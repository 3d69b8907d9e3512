"""The Oxford-IIIT Pet data set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attribkit.datasets._annotations import LabelMap, annotation_errors, existing_folder, map_labels, read_list
from attribkit.datasets._dataset import Dataset
from attribkit.datasets._sample import Sample
from attribkit.datasets._sources import ImageFile, IndexedMaskFile

_PET, _BACKGROUND, _BORDER = 1, 2, 3  # values of the trimaps


@dataclass(frozen=True)
class OxfordPets(Dataset):
    """Cats and dogs of 37 breeds with their masks.

    Args:
        root: The folder that contains `images`, `annotations/trimaps` and `annotations/test.txt`.
        split: Name of the list in `annotations`.
        border: Whether the band along the outline, which the annotators left undecided, belongs to the mask.
        labels: Mapping from breeds, such as "beagle", to the model's classes, or the breeds in the order of the
            model's classes; breeds that are left out are not read. "dataset" numbers the breeds as the list does, from
            0. None: the labels are unknown.

    Reference:
        Parkhi et al., "Cats and Dogs", CVPR 2012.
    """

    kind: ClassVar[str] = "oxford_pets"

    root: str | Path
    split: str = "test"
    border: bool = False
    labels: LabelMap = None

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        path = root / "annotations" / f"{self.split}.txt"
        with annotation_errors(path):
            pets = [(line.split()[0], int(line.split()[1])) for line in read_list(path)]
        breeds = {number: _breed(name) for name, number in sorted(pets, key=lambda pet: pet[1])}
        classes = map_labels(self.labels, list(breeds.values()))
        for name, number in pets:
            if breeds[number] in classes:
                yield self._sample(root, name, breeds[number], classes[breeds[number]])

    def _sample(self, root: Path, name: str, breed: str, label: int | None) -> Sample:
        foreground = {_PET, _BORDER} if self.border else {_PET}
        trimap = root / "annotations" / "trimaps" / f"{name}.png"
        return Sample(
            id=name,
            group=name,
            image_source=ImageFile(root / "images" / f"{name}.jpg"),
            label=label,
            mask_source=IndexedMaskFile(trimap, frozenset(foreground), frozenset({_PET, _BACKGROUND, _BORDER})),
            category=breed,
        )


def _breed(name: str) -> str:
    return name.rsplit("_", 1)[0]
