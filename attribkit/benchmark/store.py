"""[benchmark/storage/rows] The rows of a benchmark: one for each image, map and metric.
[benchmark/storage/store] What is finished: a folder with a file of rows for each unit, written whole.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from attribkit.benchmark.identity import Identity, remove_unfinished, unit_fingerprint, write_result, write_text_whole
from attribkit.benchmark.settings.plan import WorkUnit
from attribkit.core.errors import UnreadableFile

SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("method_options", pa.string(), nullable=False),
        pa.field("inverted", pa.bool_(), nullable=False),  # the map was negated: a control of each method
        pa.field("metric", pa.string(), nullable=False),
        pa.field("metric_options", pa.string(), nullable=False),
        pa.field("higher_is_better", pa.bool_()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # what the bootstrap resamples together
        pa.field("category", pa.string()),
        pa.field("subsets", pa.list_(pa.string()), nullable=False),
        pa.field("target", pa.int64()),
        pa.field("label", pa.int64()),
        pa.field("value", pa.float64(), nullable=False),  # NaN where not defined
        pa.field("tie_share", pa.float32()),
        pa.field("floor", pa.float32()),
        pa.field("details", pa.map_(pa.string(), pa.list_(pa.float32()))),
        pa.field("milliseconds", pa.float32()),
        pa.field("forwards", pa.float32()),
        pa.field("peak_mib", pa.float32()),
    ]
)


def rows_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of the schema."""
    return pa.Table.from_pylist(list(rows), SCHEMA)


_PROVENANCE = b"attribkit"  # key of a file's metadata
_LONGEST = 120  # characters of a folder's name
_OTHER = "{!r} is of another run: give each run an output of its own."
_BROKEN = "{!r} is broken ({}): run the benchmark again."


@dataclass(frozen=True)
class Failure:
    """Something that could not be done, and why; tried again by the next run."""

    model: str
    shard: int
    error: str
    method: str | None = None  # None: the model alone, or an image
    metric: str | None = None  # whose rows alone are missing
    image: str | None = None  # that was left out

    def __str__(self) -> str:
        where = (self.model, self.method, self.metric, self.image, f"shard {self.shard}")
        return f"{', '.join(each for each in where if each)}: {self.error}"


@dataclass(frozen=True)
class Store:
    """The files of one run in a folder; several processes, also on several machines, may write different units.

    rows/MODEL/METHOD/SHARD.parquet: rows, with their provenance in the file's metadata.
    maps/MODEL/METHOD/SHARD.safetensors: scores at the method's own resolution, if they are kept.
    failures/MODEL/METHOD/SHARD.json: why a unit, or the rows of a metric in it, are missing.
    """

    folder: Path
    identity: Identity  # what the numbers depend on
    keeps: frozenset[str] = frozenset()  # of "maps" and "details", what is wanted beside the rows

    def tidy(self) -> None:
        """Remove what killed runs left half written."""
        remove_unfinished(self.folder)

    def is_finished(self, unit: WorkUnit) -> bool:
        """Whether nothing of the unit failed, and all that is kept of it is there, whole and of this run."""
        if self._path(unit, "failures", "json").exists():
            return False
        try:
            told = self.provenance(unit)
            if not self.keeps <= set(told["keeps"]):
                return False
            if told["maps"]:
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
        maps_are_kept: bool = False,
    ) -> None:
        """Keep the rows of a unit; failures: of it, or of images that it lacks. maps_are_kept: beside them, already."""
        told = [asdict(failure) for failure in failures]
        again = [each for each in told if each["image"] is None]
        # Failures are there before the rows that lack something, and go after those that lack nothing.
        if again:
            self._write_json(unit, again)
        record = {"unit": asdict(unit), "fingerprint": unit_fingerprint(self.identity, unit), **provenance}
        record |= {"keeps": sorted(self.keeps), "maps": maps_are_kept}
        record["left_out"] = [each for each in told if each["image"] is not None]
        metadata = {_PROVENANCE: json.dumps(record).encode()}
        marked = rows.replace_schema_metadata(metadata)
        write_result(
            self._path(unit, "rows", "parquet"), lambda path: pq.write_table(marked, path, write_page_checksum=True)
        )
        if not again:
            self._path(unit, "failures", "json").unlink(missing_ok=True)

    def fail(self, unit: WorkUnit, failure: Failure) -> None:
        """Remember why a unit has no rows."""
        self._write_json(unit, [asdict(failure)])
        self._path(unit, "rows", "parquet").unlink(missing_ok=True)

    def rows(self, units: Iterable[WorkUnit]) -> pa.Table:
        """The rows of all finished units among these, in their order."""
        tables = [self._read(unit) for unit in units if self._path(unit, "rows", "parquet").exists()]
        return pa.concat_tables([SCHEMA.empty_table(), *(each.replace_schema_metadata(None) for each in tables)])

    def failures(self, units: Iterable[WorkUnit]) -> list[Failure]:
        """What these units lack; an image that several of them lack is told once."""
        found: dict[Failure, None] = {}
        for unit in units:
            path = self._path(unit, "failures", "json")
            found |= dict.fromkeys(_read_failures(path) if path.exists() else [])
            if self._path(unit, "rows", "parquet").exists():
                found |= dict.fromkeys(Failure(**each) for each in self.provenance(unit)["left_out"])
        return list(found)

    def provenance(self, unit: WorkUnit) -> dict[str, Any]:
        """What made a unit's rows: the unit, the fingerprint of its run, packages and the device."""
        return self._provenance(self._path(unit, "rows", "parquet"), unit)

    def devices(self, units: Iterable[WorkUnit]) -> list[str]:
        """The devices that computed the rows of these units, each once."""
        finished = (unit for unit in units if self._path(unit, "rows", "parquet").exists())
        return list(dict.fromkeys(self.provenance(unit)["device"] for unit in finished))

    def keep_maps(self, unit: WorkUnit, scores: Tensor, images: list[str], method: str) -> None:
        """Keep the maps of a unit, (b, k, *grid), by the ids of their images."""
        metadata = {
            "images": json.dumps(images),
            "method": method,
            "fingerprint": unit_fingerprint(self.identity, unit),
        }
        tensors = {"scores": scores.cpu().contiguous()}
        content = save(tensors, metadata)  # whose own writer tells a full disk by an error of its own
        write_result(self._path(unit, "maps", "safetensors"), lambda path: path.write_bytes(content))

    def maps(self, unit: WorkUnit) -> dict[str, Tensor]:
        """The maps of a unit by the ids of their images, each (k, *grid)."""
        path = self._path(unit, "maps", "safetensors")
        try:
            with safe_open(path, framework="pt") as file:
                told, scores = file.metadata() or {}, file.get_tensor("scores")
            whose, maps = told["fingerprint"], dict(zip(json.loads(told["images"]), scores, strict=True))
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise UnreadableFile(
                f"{str(path)!r} holds no maps ({error}): were they kept, by save_maps = true?"
            ) from error
        if whose != unit_fingerprint(self.identity, unit):
            raise UnreadableFile(_OTHER.format(str(path)))
        return maps

    def _path(self, unit: WorkUnit, kind: str, ending: str) -> Path:
        return self.folder.joinpath(kind, _folder(unit.model), _folder(unit.method), f"{unit.shard:05}.{ending}")

    def _read(self, unit: WorkUnit) -> pa.Table:
        """A unit's rows, checked against their sums."""
        path = self._path(unit, "rows", "parquet")
        self._provenance(path, unit)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                return file.read()
        except (OSError, pa.ArrowException) as error:
            raise UnreadableFile(_BROKEN.format(str(path), error)) from error

    def _provenance(self, path: Path, unit: WorkUnit) -> dict[str, Any]:
        """What a file says of itself, if that is this unit of this run."""
        try:
            told: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[_PROVENANCE])
            whose = (told["unit"], told["fingerprint"])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(_BROKEN.format(str(path), error)) from error
        if whose != (asdict(unit), unit_fingerprint(self.identity, unit)):
            raise UnreadableFile(_OTHER.format(str(path)))
        return told

    def _write_json(self, unit: WorkUnit, told: Any) -> None:
        write_text_whole(self._path(unit, "failures", "json"), json.dumps(told, indent=2))


def _read_failures(path: Path) -> list[Failure]:
    try:
        return [Failure(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableFile(_BROKEN.format(str(path), error)) from error


def _folder(name: str) -> str:
    """A name as one of a folder; systems take 255 characters, and one that is longer than most tables ends in a sum."""
    quoted = quote(name, safe=" ,=+").replace(".", "%2E")
    return quoted if len(quoted) <= _LONGEST else f"{quoted[:_LONGEST]}~{sha256(name.encode()).hexdigest()[:16]}"
