"""The results of a run on the disk: a file of rows for each unit of work, written atomically, and the folder's lock."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from attribkit._core.errors import AttribkitError, UnreadableFile
from attribkit._core.layouts import Extent
from attribkit._display.representations import short_repr
from attribkit.benchmark._identity import (
    Identity,
    remove_unfinished,
    unit_fingerprint,
    write_atomically,
    write_text_atomically,
)
from attribkit.benchmark._settings.plan import WorkUnit

Read = TypeVar("Read")

SCHEMA = pa.schema(  # a row for each image, map and metric
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("method_options", pa.string(), nullable=False),
        pa.field("inverted", pa.bool_(), nullable=False),  # the map was negated, as a control of each method
        pa.field("metric", pa.string(), nullable=False),
        pa.field("metric_options", pa.string(), nullable=False),
        pa.field("higher_is_better", pa.bool_()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # the unit that the bootstrap resamples
        pa.field("category", pa.string()),
        pa.field("subsets", pa.list_(pa.string()), nullable=False),
        pa.field("target", pa.int64()),
        pa.field("label", pa.int64()),
        pa.field("value", pa.float64(), nullable=False),  # NaN where not defined
        pa.field("tie_fraction", pa.float32()),
        pa.field("floor", pa.float32()),
        pa.field("details", pa.map_(pa.string(), pa.list_(pa.float32()))),
        pa.field("milliseconds", pa.float32()),
        pa.field("forwards", pa.float32()),
        pa.field("peak_mib", pa.float32()),
    ]
)

_PROVENANCE = b"attribkit"  # key in the metadata of a parquet file
_MAX_NAME = 120  # characters of a folder name; file systems accept 255 bytes
_OTHER_RUN = "{!r} belongs to a different run. Use a separate output folder for each run."
_BROKEN = "{!r} is corrupted ({}). Run the benchmark again."


def rows_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Convert rows to a table with the schema of results."""
    return pa.Table.from_pylist(list(rows), SCHEMA)


@dataclass(frozen=True)
class Failure:
    """A part of a benchmark that failed, with the reason; the next run tries it again.

    Args:
        model: Label of the model.
        shard: Number of the shard of images.
        error: The reason.
        method: Label of the method; None if the model failed, or an image was skipped.
        metric: Label of the metric whose rows are missing; None if all are.
        image: Id of an image that was skipped; None if the failure is not about one image.
    """

    model: str
    shard: int
    error: str
    method: str | None = None
    metric: str | None = None
    image: str | None = None

    __repr__ = short_repr

    def __str__(self) -> str:
        where = (self.model, self.method, self.metric, self.image, f"shard {self.shard}")
        return f"{', '.join(each for each in where if each)}: {self.error}"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Reserve the folder for this run; the operating system releases the lock when the process ends."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AttribkitError(
            f"{str(folder)!r} is in use by another run. Wait until that run ends, or choose another output folder."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise UnreadableFile(
            f"The lock file {str(folder / 'lock')!r} cannot be written ({error}). Choose another output folder, on a "
            "file system that supports file locks."
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Store:
    """The files of one run in a folder; several processes or machines may write different units.

    rows/MODEL/METHOD/SHARD.parquet: rows, with their provenance in the file's metadata.
    maps/MODEL/METHOD/SHARD.safetensors: scores at the resolution of the method, if they are saved.
    failures/MODEL/METHOD/SHARD.json: why a unit, or the rows of a metric in it, are missing.

    Args:
        folder: The output folder.
        identity: What the numbers of the run depend on.
        extras: The outputs, "maps" and "details", that are saved in addition to the rows.
    """

    folder: Path
    identity: Identity
    extras: frozenset[str] = frozenset()

    __repr__ = short_repr

    def remove_unfinished(self) -> None:
        """Remove the temporary files of runs that were killed."""
        remove_unfinished(self.folder)

    def is_finished(self, unit: WorkUnit) -> bool:
        """Return whether the unit has not failed and all its files are complete and belong to this run."""
        if self._path(unit, "failures", "json").exists():
            return False
        try:
            provenance = self.provenance(unit)
            if not self.extras <= set(provenance["extras"]):
                return False
            if provenance["maps"]:
                self.maps(unit)
            return self._read(unit).schema.equals(SCHEMA)
        except UnreadableFile:
            return False

    def finish(
        self,
        unit: WorkUnit,
        rows: pa.Table,
        failures: Iterable[Failure],
        provenance: Mapping[str, Any],
        *,
        has_maps: bool = False,
    ) -> None:
        """Save the rows of a unit.

        Args:
            unit: The unit.
            rows: Its rows.
            failures: Failed metrics of the unit, and images that were skipped.
            provenance: Further entries of the provenance, such as the device.
            has_maps: Whether the maps of the unit were saved before.
        """
        records = [asdict(failure) for failure in failures]
        to_retry = [each for each in records if each["image"] is None]
        # A crash must not leave incomplete rows without their failures: failures are written first and deleted last.
        if to_retry:
            self._write_failures(unit, to_retry)
        record = {"unit": asdict(unit), "fingerprint": unit_fingerprint(self.identity, unit), **provenance}
        record |= {"extras": sorted(self.extras), "maps": has_maps}
        record["skipped"] = [each for each in records if each["image"] is not None]
        metadata = {_PROVENANCE: json.dumps(record).encode()}
        table = rows.replace_schema_metadata(metadata)
        write_atomically(
            self._path(unit, "rows", "parquet"), lambda path: pq.write_table(table, path, write_page_checksum=True)
        )
        if not to_retry:
            self._path(unit, "failures", "json").unlink(missing_ok=True)

    def fail(self, unit: WorkUnit, failure: Failure) -> None:
        """Save the reason why a unit does not have rows."""
        self._write_failures(unit, [asdict(failure)])
        self._path(unit, "rows", "parquet").unlink(missing_ok=True)

    def rows(self, units: Iterable[WorkUnit]) -> pa.Table:
        """Return the rows of the finished units among these, in their order."""
        tables = [self._read(unit) for unit in units if self._path(unit, "rows", "parquet").exists()]
        return pa.concat_tables([SCHEMA.empty_table(), *(each.replace_schema_metadata(None) for each in tables)])

    def failures(self, units: Iterable[WorkUnit]) -> list[Failure]:
        """Return the failures of these units; an image that several units skipped is listed once."""
        failures: dict[Failure, None] = {}
        for unit in units:
            path = self._path(unit, "failures", "json")
            failures |= dict.fromkeys(_read_failures(path) if path.exists() else [])
            if self._path(unit, "rows", "parquet").exists():
                failures |= dict.fromkeys(Failure(**each) for each in self.provenance(unit)["skipped"])
        return list(failures)

    def provenance(self, unit: WorkUnit) -> dict[str, Any]:
        """Return the provenance of a unit's rows: the unit, the fingerprint of its run, and the device."""
        return self._provenance(self._path(unit, "rows", "parquet"), unit)

    def devices(self, units: Iterable[WorkUnit]) -> list[str]:
        """Return the distinct devices that computed the rows of these units."""
        finished = (unit for unit in units if self._path(unit, "rows", "parquet").exists())
        return list(dict.fromkeys(self.provenance(unit)["device"] for unit in finished))

    def save_maps(
        self, unit: WorkUnit, scores: Tensor, images: list[str], method: str, extent: Extent | None = None
    ) -> None:
        """Save the maps of a unit.

        Args:
            unit: The unit.
            scores: The maps, (b, k, *grid).
            images: The ids of the images.
            method: The method with its options.
            extent: The part of the images that the maps cover, as in `Attribution`; None means the whole image.
        """
        metadata = {
            "images": json.dumps(images),
            "method": method,
            "extent": json.dumps(extent),
            "fingerprint": unit_fingerprint(self.identity, unit),
        }
        content = save({"scores": scores.cpu().contiguous()}, metadata)  # save_file hides the OSError of a full disk
        write_atomically(self._path(unit, "maps", "safetensors"), lambda path: path.write_bytes(content))

    def maps(self, unit: WorkUnit) -> dict[str, Tensor]:
        """Return the maps of a unit by the ids of their images, each of shape (k, *grid)."""
        return self._read_maps(
            unit, lambda metadata, maps: dict(zip(json.loads(metadata["images"]), maps, strict=True))
        )

    def extent(self, unit: WorkUnit) -> Extent | None:
        """Return the part of the images that the maps of a unit cover; None means the whole image."""
        return self._read_maps(unit, lambda metadata, _: _as_extent(json.loads(metadata["extent"])))

    def _read_maps(self, unit: WorkUnit, read: Callable[[dict[str, str], Tensor], Read]) -> Read:
        """Return what `read` makes of the metadata and the scores in a unit's file of maps."""
        path = self._path(unit, "maps", "safetensors")
        try:
            with safe_open(path, framework="pt") as file:
                metadata, scores = file.metadata() or {}, file.get_tensor("scores")
            fingerprint, result = metadata["fingerprint"], read(metadata, scores)
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise UnreadableFile(
                f"Maps cannot be read from {str(path)!r} ({error}). A run saves maps only with save_maps = true."
            ) from error
        if fingerprint != unit_fingerprint(self.identity, unit):
            raise UnreadableFile(_OTHER_RUN.format(str(path)))
        return result

    def _path(self, unit: WorkUnit, kind: str, suffix: str) -> Path:
        return self.folder.joinpath(
            kind, _folder_name(unit.model), _folder_name(unit.method), f"{unit.shard:05}.{suffix}"
        )

    def _read(self, unit: WorkUnit) -> pa.Table:
        """Return a unit's rows after verifying their checksums."""
        path = self._path(unit, "rows", "parquet")
        self._provenance(path, unit)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                return file.read()
        except (OSError, pa.ArrowException) as error:
            raise UnreadableFile(_BROKEN.format(str(path), error)) from error

    def _provenance(self, path: Path, unit: WorkUnit) -> dict[str, Any]:
        """Return the provenance in a file of rows, which must be of this unit and this run."""
        try:
            record: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[_PROVENANCE])
            source = (record["unit"], record["fingerprint"])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(_BROKEN.format(str(path), error)) from error
        if source != (asdict(unit), unit_fingerprint(self.identity, unit)):
            raise UnreadableFile(_OTHER_RUN.format(str(path)))
        return record

    def _write_failures(self, unit: WorkUnit, records: list[dict[str, Any]]) -> None:
        write_text_atomically(self._path(unit, "failures", "json"), json.dumps(records, indent=2))


def _as_extent(record: Any) -> Extent | None:
    """Return an extent from its record in JSON."""
    return None if record is None else tuple((float(start), float(end)) for start, end in record)


def _read_failures(path: Path) -> list[Failure]:
    try:
        return [Failure(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableFile(_BROKEN.format(str(path), error)) from error


def _folder_name(name: str) -> str:
    """Convert a label to a folder name; a long one is cut and ends in a checksum."""
    quoted = quote(name, safe=" ,=+").replace(".", "%2E")
    return quoted if len(quoted) <= _MAX_NAME else f"{quoted[:_MAX_NAME]}~{sha256(name.encode()).hexdigest()[:16]}"
