"""A folder of images for each class."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attribkit.datasets.annotations import existing_folder, image_files, subfolders
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.labels import Labels, model_classes
from attribkit.datasets.sample import Sample
from attribkit.datasets.sources import PhotographFile


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Images in folders named by their class."""

    kind: ClassVar[str] = "image_folder"

    root: str | Path
    labels: Labels = None  # folder -> the model's class; "own" numbers the folders by name; None: not known

    def read(self) -> Iterator[Sample]:
        root = existing_folder(self.root)
        folders = subfolders(root)
        asked = model_classes(self.labels, [folder.name for folder in folders])
        for folder in folders:
            if folder.name in asked:
                for path in image_files(folder):
                    name = path.relative_to(root).as_posix()
                    yield Sample(id=name, group=name, image_source=PhotographFile(path), label=asked[folder.name])
