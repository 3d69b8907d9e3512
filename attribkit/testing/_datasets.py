"""Conformance checks for data sets."""

from dataclasses import replace

from PIL import Image

from attribkit._contracts.dataset import Dataset, Sample
from attribkit.testing._checks import CheckList, NotApplicable, raise_first_failure, require

_LOOKED_AT = 20  # samples whose images and masks are read
_LEAST_INSIDE = 0.95  # of a mask inside its boxes; outlines of polygons may exceed them by a pixel

DATASET_CHECKS = CheckList("dataset", lambda _dataset: (_LOOKED_AT,))


def check_dataset(dataset: Dataset, samples: int = _LOOKED_AT) -> None:
    """Run all conformance checks (DATASET_CHECKS) on a data set until one fails.

    Args:
        dataset: The data set.
        samples: Number of samples whose images and masks are read, spread over the data set.

    Raises:
        ConformanceError: If a check fails, with the name of the check, what it observed and expected, and how to fix
            it.
    """
    raise_first_failure(DATASET_CHECKS, dataset, samples)


@DATASET_CHECKS.add
def check_dataset_samples(dataset: Dataset, samples: int) -> None:
    """Check that there are samples, whose ids are unique and whose order is fixed."""
    ids = [sample.id for sample in dataset.read()]
    again = [sample.id for sample in dataset.read()]
    require(ids, "no samples", "at least one sample", "check the folder and the options of the data set")
    require(ids == again, "two calls of `read` give other ids", "a fixed order", "sort the files")
    require(len(set(ids)) == len(ids), "two samples have the same id", "unique ids", "include the path in the id")


@DATASET_CHECKS.add
def check_dataset_images(dataset: Dataset, samples: int) -> None:
    """Check that images can be read, in RGB, and are the same each time."""
    for sample in _spread(dataset, samples):
        image, again = sample.image, sample.image_source.read()
        require(
            isinstance(image, Image.Image) and image.mode == "RGB",
            f"sample {sample.id!r}: {getattr(image, 'mode', type(image).__name__)}",
            "a PIL image in RGB",
            'convert it: image.convert("RGB")',
        )
        require(
            image.size == again.size and image.tobytes() == again.tobytes(),
            f"sample {sample.id!r}: two calls of `read` of the image differ",
            "the same pixels",
            "read images without random transforms",
        )


@DATASET_CHECKS.add
def check_dataset_groups(dataset: Dataset, samples: int) -> None:
    """Check that samples of one group, and only these, share an image."""
    stamp_of_group: dict[str, str] = {}
    group_of_stamp: dict[str, str] = {}
    for sample in dataset:
        stamp = sample.image_source.stamp()
        require(
            stamp_of_group.setdefault(sample.group, stamp) == stamp,
            f"the group {sample.group!r} contains several images",
            "one image in each group",
            "use the id of the image as `group`",
        )
        require(
            group_of_stamp.setdefault(stamp, sample.group) == sample.group,
            f"the images of the groups {group_of_stamp[stamp]!r} and {sample.group!r} have the same stamp, {stamp!r}",
            "different stamps for different images, and one group for each image",
            "return from `stamp` the path and the size of the file; use the id of the image as `group`",
        )


@DATASET_CHECKS.add
def check_dataset_labels(dataset: Dataset, samples: int) -> None:
    """Check that labels are class indices or None."""
    for sample in dataset:
        label = sample.label
        require(
            label is None or (isinstance(label, int) and not isinstance(label, bool) and label >= 0),
            f"sample {sample.id!r}: label {label!r}",
            "the index of a class of the model, or None",
            "convert names of classes to indices",
        )


@DATASET_CHECKS.add
def check_dataset_masks(dataset: Dataset, samples: int) -> None:
    """Check that masks have the size of the image and contain the object."""
    masks = [(sample, sample.mask) for sample in _spread(dataset, samples)]
    if all(mask is None for _, mask in masks):
        raise NotApplicable("the samples do not have masks")
    for sample, mask in masks:
        if mask is not None:
            size = (sample.image.height, sample.image.width)
            require(
                mask.shape == size and mask.dtype == bool,
                f"sample {sample.id!r}: mask of shape {mask.shape}, dtype {mask.dtype}",
                f"a bool mask of shape {size}, (height, width)",
                "resize the mask to the image without interpolation, and compare it with the id of the object",
            )
    require(
        any(mask is not None and mask.any() for _, mask in masks),
        f"the masks of all {len(masks)} samples that were read are empty",
        "masks that are True on the objects",
        "compare the values of the mask with the id of the object",
    )


@DATASET_CHECKS.add
def check_dataset_boxes(dataset: Dataset, samples: int) -> None:
    """Check that boxes are left, top, right and bottom edges inside the image."""
    boxed = [sample for sample in _spread(dataset, samples) if sample.boxes is not None]
    if not boxed:
        raise NotApplicable("the samples do not have boxes")
    for sample in boxed:
        boxes, image = sample.boxes, sample.image
        if boxes is None:
            continue
        is_valid = boxes.ndim == 2 and boxes.shape[1] == 4
        inside = is_valid and (boxes >= 0).all() and (boxes[:, 2:] <= (image.width, image.height)).all()
        require(
            inside and (boxes[:, :2] < boxes[:, 2:]).all() and (not len(boxes) or boxes.max() > 1),
            f"sample {sample.id!r}: boxes {boxes.tolist()} in an image of {image.width} x {image.height} pixels",
            "boxes (n, 4) in pixels, left < right and top < bottom, from 0 to the sides of the image",
            "convert (x, y, width, height) or fractions of the sides to (left, top, right, bottom) in pixels",
        )
    require(
        any(sample.boxes is not None and len(sample.boxes) for sample in boxed),
        f"none of the {len(boxed)} samples that were read has a box",
        "at least one box in the data set",
        "return None as boxes if the data set does not have annotated boxes",
    )


@DATASET_CHECKS.add
def check_dataset_boxes_contain_masks(dataset: Dataset, samples: int) -> None:
    """Check that each mask lies in the extent of its boxes, where both are annotated."""
    both = [sample for sample in _spread(dataset, samples) if sample.boxes is not None and sample.mask is not None]
    if not both:
        raise NotApplicable("no sample has both boxes and a mask")
    for sample in both:
        mask, boxes = sample.mask, sample.boxes
        if mask is None or boxes is None or not mask.any() or not len(boxes):
            continue
        rows, columns = mask.nonzero()
        left, top, right, bottom = boxes.min(0)[0], boxes.min(0)[1], boxes.max(0)[2], boxes.max(0)[3]
        inside = (rows >= top - 1) & (rows < bottom + 1) & (columns >= left - 1) & (columns < right + 1)
        require(
            inside.mean() >= _LEAST_INSIDE,
            f"sample {sample.id!r}: {inside.mean():.1%} of the mask lies in the extent of its boxes",
            f"at least {_LEAST_INSIDE:.0%}",
            "check that boxes and mask belong to the same object, that boxes are (left, top, right, bottom), and that "
            "the mask is True on the object",
        )


@DATASET_CHECKS.add
def check_dataset_fingerprint(dataset: Dataset, samples: int) -> None:
    """Check that the fingerprint does not change."""
    first = dataset.fingerprint()
    again = replace(dataset)
    require(
        again.fingerprint() == first,
        "two equal data sets have different fingerprints",
        "equal fingerprints",
        "return from `stamp` text that identifies the content, without object ids or times",
    )


def _spread(dataset: Dataset, samples: int) -> list[Sample]:
    """Return some samples, spread evenly over the data set."""
    step = max(1, len(dataset) // samples)
    return [dataset[i] for i in range(0, len(dataset), step)][:samples]
