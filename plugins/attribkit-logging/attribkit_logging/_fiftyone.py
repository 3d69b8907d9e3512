"""Export of heat maps to FiftyOne, as `fiftyone.Heatmap` labels of samples."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
from numpy import ndarray

from attribkit import AttribkitError, Attribution, Comparison, InvalidInput, UnknownName
from attribkit.datasets import Dataset, Sample
from attribkit.io import read_image

from ._captions import layer_names, method_name, target_name, unique_names
from ._images import Reduction
from ._placement import Placement, place_on_photograph

try:
    import fiftyone  # type: ignore[import-not-found]  # an optional library
except ImportError as error:
    raise AttribkitError("The export to FiftyOne needs fiftyone: pip install 'attribkit-logging[fiftyone]'.") from error

Source = str | Path | Attribution | Comparison | Mapping[str, Attribution]
Value = TypeVar("Value")

_RESERVED = {"id", "map", "map_path", "range", "tags"}  # fields of a Heatmap


def to_fiftyone(
    source: Source,
    paths: Sequence[str | Path] | None = None,
    *,
    name: str | None = None,
    persistent: bool = False,
    **options: Any,
) -> Any:
    """Make a FiftyOne data set with the heat maps of attributions, or of a benchmark, as labels of its samples.

    Args:
        source: As for `fiftyone_samples`.
        paths: As for `fiftyone_samples`.
        name: Name of the data set; None lets FiftyOne choose one.
        persistent: Whether FiftyOne keeps the data set after the session.
        **options: The other arguments of `fiftyone_samples`.

    Returns:
        The `fiftyone.Dataset`. To add the heat maps to a data set of your own, use
        ``yours.merge_samples(to_fiftyone(...))``, which matches samples by their file.

    Raises:
        AttribkitError: As for `fiftyone_samples`.

    Example:
        >>> dataset = to_fiftyone("runs/resnet-and-vit", methods=["gradcam", "rise"])
        >>> fiftyone.launch_app(dataset)
    """
    samples = fiftyone_samples(source, paths, **options)
    dataset = fiftyone.Dataset(name, persistent=persistent)
    dataset.add_samples(samples, dynamic=True)  # dynamic: attributes of the labels can be filtered in the App
    return dataset


def fiftyone_samples(
    source: Source,
    paths: Sequence[str | Path] | None = None,
    *,
    preprocessing: Placement = None,
    models: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    data: Dataset | None = None,
    media: str | Path | None = None,
    labels: Sequence[str] = (),
    reduce: Reduction = "sum",
) -> list[Any]:
    """Make FiftyOne samples with the heat maps of attributions, or of a benchmark, as labels.

    Each heat map covers the whole photograph; it is zero where the input of the model, after resizing and cropping,
    does not reach. The scores are not normalised: the range of a label is 0 to the largest score, or symmetric about 0
    if there are negative scores.

    For attributions, the field of a heat map is named by its method, or by the key of a mapping. Its attributes are
    `method`, `target` and `layers`. For a benchmark, the field is named MODEL_METHOD. Its attributes are `method`,
    `target` (the index of the class) and the values of the metrics. Characters other than letters and digits become "_"
    in names. The samples have the field `attribkit_id`, and `attribkit_label`, the index of their class, if known.

    Args:
        source: An attribution, a comparison, attributions of the same images by name, or the folder of a benchmark that
            was run with ``save_maps = true``.
        paths: The files of the photographs, one for each image of the attributions; only for attributions.
        preprocessing: What made the inputs of the model from the photographs: a `Preprocessing`, as
            `attribkit.load_model` returns it; "stretch" if they were resized to the size of the inputs without a crop;
            None if the photographs have the size of the inputs. Only for attributions: a benchmark records it.
        models: Labels of the models to export; None means all. Only for a benchmark.
        methods: Labels of the methods to export, controls included; None means all. Only for a benchmark.
        data: The data set of the benchmark, if its files were moved; None reads it as configured. Only for a benchmark.
        media: Folder for PNG files of images that are not files, such as those of the data set "scenes". Only for a
            benchmark.
        labels: Names of the classes by their index, for the attribute `target` of attributions.
        reduce: How several channels of scores become one, as in `Attribution.heatmap`.

    Returns:
        A list of `fiftyone.Sample`, one for each image.

    Raises:
        InvalidInput: If the arguments do not fit together.
        UnknownName: If the benchmark does not have a model or a method.
        UnreadableFile: If a photograph or a file of the benchmark cannot be read.
    """
    if isinstance(source, str | Path):
        _refuse("a benchmark", paths=paths, preprocessing=preprocessing, labels=labels or None)
        return _samples_of_run(source, data, models, methods, media, reduce)
    _refuse("attributions", models=models, methods=methods, data=data, media=media)
    if paths is None:
        raise InvalidInput("paths is missing: pass the file of the photograph of each image.")
    return _samples_of_attributions(_named(source), list(paths), preprocessing, labels, reduce)


def heatmap_label(heatmap: ndarray, attributes: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> Any:
    """Return a `fiftyone.Heatmap` with attributes.

    Args:
        heatmap: The scores, (h, w) float32.
        attributes: The attributes by name.
        metrics: The values of metrics by their labels; characters other than letters and digits become "_".

    Raises:
        InvalidInput: If a metric has the name of an attribute or of a field of FiftyOne.
    """
    high = float(np.abs(heatmap).max()) or 1.0
    low = -high if bool((heatmap < 0).any()) else 0.0
    values = _by_field(metrics or {})
    if taken := (_RESERVED | attributes.keys()) & values.keys():
        raise InvalidInput(f"The names {sorted(taken)} are reserved: give these metrics other labels.")
    return fiftyone.Heatmap(map=heatmap, range=[low, high], **attributes, **values)


def _refuse(source: str, **arguments: Any) -> None:
    """Raise InvalidInput for arguments that do not apply to this kind of source."""
    if given := [name for name, value in arguments.items() if value is not None]:
        raise InvalidInput(f"{', '.join(given)} cannot be used for {source}: leave out {given[0]}.")


def _named(source: Any) -> dict[str, Attribution]:
    """Return the attributions by the names of their fields, channels first; check that they are of the same images."""
    if isinstance(source, Mapping):
        named = dict(source)
    else:
        attributions = [source] if isinstance(source, Attribution) else source
        if not isinstance(attributions, list):
            raise InvalidInput(
                f"source must be an Attribution, a Comparison, a mapping of attributions by name, or the folder of a "
                f"benchmark, got {type(source).__name__}."
            )
        named = dict(zip(unique_names([each.method.name for each in attributions]), attributions, strict=True))
    named = {name: each.channels_first() for name, each in named.items()}
    shapes = list(dict.fromkeys(tuple(each.x.shape) for each in named.values()))
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise InvalidInput(
            f"Attributions of the same images (b, c, h, w) can be exported, got {len(named)} attributions of inputs of "
            f"shapes {shapes}."
        )
    return _by_field(named)


def _samples_of_attributions(
    named: Mapping[str, Attribution],
    paths: Sequence[str | Path],
    placement: Placement,
    labels: Sequence[str],
    reduce: Reduction,
) -> list[Any]:
    count = len(next(iter(named.values())))
    if len(paths) != count:
        raise InvalidInput(f"paths must contain one file for each image, got {len(paths)} files for {count} images.")
    heatmaps = {field: each.heatmap(reduce) for field, each in named.items()}
    samples = []
    for index, path in enumerate(paths):
        sides = _sides(path)
        sample = fiftyone.Sample(filepath=str(Path(path).resolve()))
        for field, attribution in named.items():
            placed = place_on_photograph(heatmaps[field][index], sides, placement)
            sample[field] = heatmap_label(placed, _attributes(attribution[index], labels))
        samples.append(sample)
    return samples


def _attributes(attribution: Attribution, labels: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of the label of one image."""
    return {
        "method": method_name(attribution),
        "target": target_name(attribution, labels),
        "layers": layer_names(attribution),
    }


def _samples_of_run(
    folder: str | Path,
    data: Dataset | None,
    models: Sequence[str] | None,
    methods: Sequence[str] | None,
    media: str | Path | None,
    reduce: Reduction,
) -> list[Any]:
    from ._run_folder import read_run_folder, run_maps  # needs attribkit[bench]

    run = read_run_folder(folder, data)
    models, methods = _chosen("model", models, run.models), _chosen("method", methods, list(run.methods))
    fields = _by_field({(model, method): (model, method) for model in models for method in methods}, "_".join)
    field_of = {pair: field for field, pair in fields.items()}
    placements = {model: run.preprocessing(model) for model in models}
    by_id = {sample.id: sample for sample in run.data}
    made: dict[str, tuple[Any, tuple[int, int]]] = {}
    for each in run_maps(run, models, methods, reduce):
        if each.image not in made:
            made[each.image] = _sample(by_id[each.image], media)
        sample, sides = made[each.image]
        placed = place_on_photograph(each.heatmap, sides, placements[each.model])
        sample[field_of[each.model, each.method]] = heatmap_label(placed, each.attributes, each.metrics)
    if not made:
        raise InvalidInput(
            f"The benchmark in {str(folder)!r} has not saved maps of these models and methods: run it with "
            "save_maps = true."
        )
    return [sample for sample, _ in made.values()]


def _chosen(kind: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the chosen labels; all of them for None."""
    if isinstance(names, str):
        raise InvalidInput(f"{kind}s must be a list of labels, got {names!r}: write {kind}s=[{names!r}].")
    for name in names or ():
        if name not in known:
            raise UnknownName(f"{kind} of the benchmark", name, known)
    return list(known if names is None else names)


def _sample(source: Sample, media: str | Path | None) -> tuple[Any, tuple[int, int]]:
    """Return the FiftyOne sample of a sample of a data set, and the height and width of its image."""
    image = source.image
    path = getattr(source.image_source, "path", None)
    if path is None:
        if media is None:
            raise InvalidInput(f"The image {source.id!r} is not a file: pass media=..., a folder for PNG files.")
        path = Path(media) / f"{quote(source.id, safe=' ')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    sample = fiftyone.Sample(filepath=str(Path(path).resolve()), attribkit_id=source.id)
    if source.label is not None:
        sample["attribkit_label"] = source.label
    return sample, (image.height, image.width)


def _sides(path: str | Path) -> tuple[int, int]:
    """Return the height and width of the photograph in a file, upright."""
    image = read_image(path)
    return image.height, image.width


def _by_field(values: Mapping[Any, Value], name: Callable[[Any], str] = str) -> dict[str, Value]:
    """Return the values by valid names of fields; raise InvalidInput if two of them have the same."""
    fields: dict[str, Value] = {}
    for key, value in values.items():
        field = re.sub(r"[^0-9A-Za-z]+", "_", name(key)).strip("_")
        if not field or field in fields:
            raise InvalidInput(
                f"{name(key)!r} gives the field {field!r}, which is empty or belongs to another name: use names that "
                "differ in letters or digits."
            )
        fields[field] = value
    return fields
