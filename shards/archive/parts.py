"""The token archive: one Parquet part per shard, one row per utterance (FORMAT.md, section "Archive").

A part is written whole, with page checksums, and its name and bytes follow from its shard, the encoder, the recipe and
the archive's encoding alone. What the tokens mean stands in the file's metadata; how its columns are written, in
``encoding.py``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from crc32c import crc32c
from numpy.typing import NDArray

from syllabary.shards import outputs, store
from syllabary.shards.archive.packing import Packing
from syllabary.shards.errors import DamageError, FormatError, require_version

FORMAT_VERSION = 1
METADATA_KEY = b"syllabary"
PARTS, LEDGER, SUMS = "parts", "ledger", "sums"
SOURCE_SUFFIX = ".flac"
Encoding = Literal["plain", "compact"]

COLUMNS: tuple[pa.Field, ...] = (
    pa.field("utterance_id", pa.string(), nullable=False),
    pa.field("recording_id", pa.string(), nullable=False),
    pa.field("speaker", pa.string()),
    pa.field("split", pa.string()),
    pa.field("start_sample", pa.int64(), nullable=False),
    pa.field("num_samples", pa.int64(), nullable=False),
    pa.field("sample_rate", pa.int32(), nullable=False),
    pa.field("num_frames", pa.int32(), nullable=False),
    pa.field("packing", pa.string(), nullable=False),
    pa.field("tokens", pa.list_(pa.field("element", pa.uint16(), nullable=False)), nullable=False),
    pa.field("crc32c", pa.uint32(), nullable=False),
    pa.field("salience", pa.list_(pa.field("element", pa.uint8(), nullable=False)), nullable=False),
)
_NOT_CARRIED = {
    "shard",
    "key",
    "offset",
    "size_bytes",
    "sha256",
}  # where the bytes lay in the shard; the archive outlives it


@dataclass(frozen=True)
class ArchiveFormat:
    """What the tokens of an archive mean; the same in every part.

    Attributes:
        encoder_digest: sha256 of the encoder that made the tokens; a tokenizer must have it to restore them.
        recipe_digest: sha256 of the resolved configuration of that encoder.
        packing: digits of a frame to tokens.
        model_sample_rate: samples per second at the encoder's input.
        hop_length: samples per frame at ``model_sample_rate``.
        encoding: how the columns of the parts are written: ``plain``, which every Parquet reader reads, or ``compact``.
        version: of the format.

    Raises:
        ValueError: an unknown encoding.
    """

    encoder_digest: str
    recipe_digest: str
    packing: Packing
    model_sample_rate: int
    hop_length: int
    encoding: Encoding = "plain"
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise ValueError(f"unknown encoding {self.encoding!r}; expected one of {get_args(Encoding)}")

    def num_frames(self, num_samples: int, sample_rate: int) -> int:
        """How many frames ``num_samples`` at their own ``sample_rate`` make: resampled length, rounded up twice."""
        resampled = -(-num_samples * self.model_sample_rate // sample_rate)
        return -(-resampled // self.hop_length)

    def to_json(self) -> dict[str, Any]:
        """The archive-wide part of the metadata."""
        values = asdict(self)
        packing = values.pop("packing")
        values["format_version"] = values.pop("version")
        return values | packing

    def claim(self, archive_uri: str) -> None:
        """Take ``archive_uri`` for archives of this format. Raises ConflictError when it holds another."""
        values = self.to_json()
        digests = {key: values.pop(key) for key in ("encoder_digest", "recipe_digest")}
        outputs.claim(archive_uri, "archive", inputs=digests, config=values)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """The format from the metadata of the part or archive at ``where``. Raises VersionError, FormatError."""
        require_version(values.get("format_version"), FORMAT_VERSION, f"archive format version in {where}")
        try:
            packing = Packing(*(values[k] for k in ("num_dims", "levels", "group_size", "digit_order")))
            names = ("encoder_digest", "recipe_digest", "model_sample_rate", "hop_length", "encoding")
            found = cls(packing=packing, **{name: values[name] for name in names})
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"archive metadata does not do ({error!r})", value=where) from error
        if "radices" in values and [list(r) for r in found.packing.radices] != values["radices"]:
            raise FormatError("radices disagree with levels and group_size", value=where)
        return found


@dataclass(frozen=True)
class PartMetadata:
    """The metadata of one part.

    Attributes:
        format: of the archive.
        shard: that the part comes from.
        shard_digest: of that shard's index.
        encoded_on: what computed the tokens, for people: torch's version and the kind of CPU or GPU; empty where no
            tokenizer did.
    """

    format: ArchiveFormat
    shard: str
    shard_digest: str
    encoded_on: str = ""

    def to_bytes(self) -> bytes:
        """The value of the Parquet metadata key ``syllabary``: canonical JSON."""
        derived = {"num_groups": self.format.packing.num_groups, "radices": self.format.packing.radices}
        own = {"shard": self.shard, "shard_digest": self.shard_digest}
        own |= {"encoded_on": self.encoded_on} if self.encoded_on else {}
        return outputs.canonical_json(self.format.to_json() | derived | own)

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes] | None, where: str) -> Self:
        """The metadata of the Parquet file at ``where``. Raises FormatError, VersionError."""
        try:
            values = json.loads((metadata or {})[METADATA_KEY])
            shard, shard_digest = values["shard"], values["shard_digest"]
        except (KeyError, ValueError, TypeError) as error:
            raise FormatError(
                "not a part of a token archive", value=where, expected="the metadata key 'syllabary'"
            ) from error
        return cls(ArchiveFormat.from_json(values, where), shard, shard_digest, str(values.get("encoded_on", "")))

    @classmethod
    def of_file(cls, file: pq.ParquetFile, where: str) -> Self:
        """The metadata of an opened part with the format's columns. Raises FormatError, VersionError, DamageError."""
        metadata = cls.of(file.metadata.metadata, where)
        types = {field.name: field.type for field in file.schema_arrow}
        for field in COLUMNS:
            if not _same_values(types.get(field.name), field.type):
                found = types.get(field.name, "none")
                what = f"column {field.name} of {where} is not the format's"
                raise DamageError(what, value=found, expected=str(field.type), fix=REBUILD)
        return metadata


def part_name(shard: str) -> str:
    """Path of a shard's part below the archive."""
    return f"{PARTS}/{shard}.parquet"


def row_crc32cs(table: pa.Table) -> NDArray[np.uint32]:
    """Checksum of every row, CRC-32C over these bytes in this order: tokens as little-endian uint16, salience,
    utterance_id as UTF-8, start_sample, num_samples and sample_rate as little-endian int64, packing as UTF-8."""
    numbers = np.stack([table[n].to_numpy().astype("<i8") for n in ("start_sample", "num_samples", "sample_rate")], 1)
    texts = zip(table["utterance_id"].to_pylist(), table["packing"].to_pylist(), strict=True)
    rows = zip(list_values(table["tokens"]), list_values(table["salience"]), texts, numbers, strict=True)
    crcs = np.empty(len(table), np.uint32)
    for i, (tokens, salience, (utterance_id, packing), own) in enumerate(rows):
        crc = crc32c(salience.data, crc32c(tokens.astype("<u2", copy=False).data))
        crcs[i] = crc32c(packing.encode(), crc32c(own.data, crc32c(utterance_id.encode(), crc)))
    return crcs


def shard_digest(index: pa.Table) -> str:
    """sha256 over utterance ids and audio digests of a shard's index rows: what the part was made from."""
    return outputs.digest([index["utterance_id"].to_pylist(), index["sha256"].to_pylist()])


def part_table(
    index: pa.Table,
    tokens: Sequence[NDArray[np.uint16]],
    salience: Sequence[NDArray[np.uint8]],
    metadata: PartMetadata,
) -> pa.Table:
    """The rows of a part, in the order of ``index``.

    Args:
        index: the index rows of the tokenized utterances; columns beyond the archive's own are carried along, and
            ``source`` where ``recording_id`` does not tell it.
        tokens: uint16 [F, G] of each.
        salience: uint8 [F] of each.
        metadata: of the part.
    """
    values: dict[str, Any] = {name: index[name] for name in index.column_names if name not in _NOT_CARRIED}
    if "source" in values:
        values["source"] = _untold_sources(index)
    values["num_frames"] = pa.array([len(t) for t in tokens], pa.int32())
    values["packing"] = pa.array([str(metadata.format.packing)] * len(tokens), pa.string())
    values["tokens"] = _list_array([t.reshape(-1) for t in tokens], np.dtype(np.uint16))
    values["salience"] = _list_array(list(salience), np.dtype(np.uint8))
    values["crc32c"] = pa.array(row_crc32cs(pa.table(values)), pa.uint32())
    own = {f.name for f in COLUMNS}
    extra = [pa.field(name, index.schema.field(name).type) for name in values if name not in own]
    schema = pa.schema([*COLUMNS, *extra], {METADATA_KEY: metadata.to_bytes()})
    return pa.table([_cast(values[f.name], f) for f in schema], schema=schema)


def _untold_sources(index: pa.Table) -> pa.ChunkedArray:
    """``source`` where it is not ``recording_id`` with :data:`SOURCE_SUFFIX`, else null (FORMAT.md)."""
    told = pc.binary_join_element_wise(index["recording_id"], SOURCE_SUFFIX, "")
    return pc.if_else(pc.equal(index["source"], told), pa.scalar(None, pa.string()), index["source"])


def open_part(source: Any, where: str, *, checked: bool = True) -> pq.ParquetFile:
    """Open a part for reading with page checksums verified. Raises DamageError when the footer does not parse."""
    try:
        return pq.ParquetFile(source, page_checksum_verification=checked)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamageError(f"footer does not parse ({error})", value=where, fix=REBUILD) from error


REBUILD = "run `syllabary tokenize` again: it rebuilds the part"


def read_format(archive_uri: str) -> ArchiveFormat:
    """Read the format of an archive from its claim. Raises NotFoundError, FormatError, VersionError."""
    claim = outputs.read_claim(archive_uri, "archive")
    return ArchiveFormat.from_json({**claim["inputs"], **claim["config"]}, store.join(archive_uri, outputs.CLAIM))


def row_tokens(table: pa.Table, num_groups: int) -> list[NDArray[np.uint16]]:
    """The tokens [F, G] of every row of a table."""
    return [flat.reshape(-1, num_groups) for flat in list_values(table["tokens"])]


def list_values(column: pa.ChunkedArray) -> list[NDArray[Any]]:
    """The lists of a column, each as a numpy view of its values."""
    views: list[NDArray[Any]] = []
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        flat = chunk.values.to_numpy(zero_copy_only=False)
        views += [flat[a:b] for a, b in itertools.pairwise(offsets)]
    return views


def _same_values(found: pa.DataType | None, expected: pa.DataType) -> bool:
    """Whether two types hold the same values; how a writer names a list's element does not matter."""
    if found is not None and pa.types.is_list(found) and pa.types.is_list(expected):
        return bool(found.value_type == expected.value_type)
    return bool(found == expected)


def _cast(values: Any, field: pa.Field) -> pa.ChunkedArray:
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    return column if column.type == field.type else column.cast(field.type)


def _list_array(rows: list[NDArray[Any]], dtype: np.dtype[Any]) -> pa.ListArray:
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat = np.concatenate(rows) if rows else np.empty(0, dtype)
    item = pa.field("element", pa.from_numpy_dtype(dtype), nullable=False)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat.astype(dtype)), type=pa.list_(item))
