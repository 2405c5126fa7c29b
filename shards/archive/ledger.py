"""The archive's ledger: for every shard, what became of each utterance, and the checksums of what was written.

``ledger/<shard>.parquet`` has one row for each utterance of the shard's index: tokenized, or quarantined and why.
``sums/<shard>.sha256`` lists the sha256 of part and ledger in the form that ``sha256sum -c`` reads. Both are published
before the part, so that a part never exists without them. The sha256 of all these lists, one after the other, is the
*archive digest*: one line that pins every byte of parts and ledgers, in ``done.json`` and wherever somebody keeps it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards import outputs
from syllabary.shards.archive.parts import (
    LEDGER,
    METADATA_KEY,
    PARTS,
    REBUILD,
    SUMS,
    ArchiveFormat,
    PartMetadata,
    open_part,
    part_name,
)
from syllabary.shards.errors import ConflictError, DamageError, FormatError, NotFoundError
from syllabary.shards.store import Folder

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_sample", pa.int64(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
TOKENIZED, QUARANTINED = "tokenized", "quarantined"
_ZSTD_LEVEL = 9
_READERS = 8
_DICTIONARY = ["recording_id", "sample_rate", "status", "reason"]


@dataclass(frozen=True)
class Ledger:
    """What became of one shard.

    Attributes:
        shard: its name.
        shard_digest: of the index rows the part was made from (:func:`syllabary.shards.archive.parts.shard_digest`).
        part_sha256: of the part's bytes.
        part_size_bytes: their number.
        rows: :data:`LEDGER_SCHEMA`, in index order.
    """

    shard: str
    shard_digest: str
    part_sha256: str
    part_size_bytes: int
    rows: pa.Table

    def encode(self) -> bytes:
        """The ledger as Parquet bytes; equal ledgers give equal bytes."""
        names = ("shard", "shard_digest", "part_sha256", "part_size_bytes")
        sink = io.BytesIO()
        with pq.ParquetWriter(
            sink,
            LEDGER_SCHEMA,
            compression="zstd",
            use_dictionary=_DICTIONARY,
            compression_level=_ZSTD_LEVEL,
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,
        ) as writer:
            writer.write_table(self.rows.cast(LEDGER_SCHEMA))
            writer.add_key_value_metadata({METADATA_KEY: outputs.canonical_json({n: getattr(self, n) for n in names})})
        return sink.getvalue()

    @classmethod
    def decode(cls, data: bytes, where: str) -> Ledger:
        """The ledger in the Parquet bytes from ``where``. Raises DamageError."""
        try:
            file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
            values: Mapping[str, Any] = json.loads((file.metadata.metadata or {})[METADATA_KEY])
            rows = file.read().replace_schema_metadata(None).cast(LEDGER_SCHEMA)
            return cls(rows=rows, **values)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise DamageError(f"ledger does not parse ({error})", value=where, fix=REBUILD) from error

    def seconds(self, status: str) -> float:
        """How many seconds of audio the utterances with that status have."""
        columns = (self.rows[name].to_pylist() for name in ("num_samples", "sample_rate", "status"))
        return sum(num / rate for num, rate, own in zip(*columns, strict=True) if own == status)

    def count(self, status: str) -> int:
        """How many utterances have that status."""
        return sum(value == status for value in self.rows["status"].to_pylist())


def ledger_name(shard: str) -> str:
    """Path of a shard's ledger below the archive."""
    return f"{LEDGER}/{shard}.parquet"


def sums_name(shard: str) -> str:
    """Path of a shard's checksums below the archive."""
    return f"{SUMS}/{shard}.sha256"


def sha256(data: bytes) -> str:
    """The sha256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def sums_text(shard: str, part_sha256: str, ledger_sha256: str) -> bytes:
    """The checksum file of a shard: run ``sha256sum -c sums/*.sha256`` in the archive's folder."""
    return f"{part_sha256}  {part_name(shard)}\n{ledger_sha256}  {ledger_name(shard)}\n".encode()


def archive_digest(sums: Mapping[str, bytes]) -> str:
    """sha256 of the checksum files by shard, in the order of their names: ``cat sums/*.sha256 | sha256sum``."""
    whole = hashlib.sha256()
    for shard in sorted(sums, key=sums_name):
        whole.update(sums[shard])
    return whole.hexdigest()


def read_archive_digest(archive_uri: str) -> str:
    """The digest of an archive by the checksum files that it has. Raises StorageError."""
    archive, names = Folder(archive_uri), shards_in(archive_uri, SUMS)
    with ThreadPoolExecutor(_READERS) as pool:
        return archive_digest(
            dict(zip(names, pool.map(lambda shard: archive.read(sums_name(shard)), names), strict=True))
        )


def publish_part(archive_uri: str, part: bytes, ledger: Ledger) -> None:
    """Publish ledger, checksums and, last, the part, whose presence commits the shard."""
    archive, encoded = Folder(archive_uri), ledger.encode()
    archive.publish(ledger_name(ledger.shard), encoded)
    archive.publish(sums_name(ledger.shard), sums_text(ledger.shard, ledger.part_sha256, sha256(encoded)))
    archive.publish(part_name(ledger.shard), part)


def read_ledger(archive_uri: str, shard: str) -> Ledger:
    """Read the ledger of a shard. Raises NotFoundError, DamageError."""
    archive, name = Folder(archive_uri), ledger_name(shard)
    return Ledger.decode(archive.read(name), archive.join(name))


def part_sizes(archive_uri: str) -> dict[str, int]:
    """Bytes of every part of the archive, by shard, sorted."""
    entries = (Folder(archive_uri) / PARTS).list(suffix=".parquet")
    return {entry.name.removesuffix(".parquet"): entry.size_bytes for entry in entries}


def read_totals(archive_uri: str) -> dict[str, Any] | None:
    """The totals of a complete archive, ``done.json``, or None while it is not complete. Raises FormatError."""
    done = outputs.read_done(archive_uri)
    if done is not None and not isinstance(done.get("num_parts"), int):
        where = Folder(archive_uri).join(outputs.DONE)
        raise DamageError("totals without a number of parts", value=where, fix="run `syllabary tokenize` again")
    return done


def shards_in(archive_uri: str, folder: str = PARTS) -> list[str]:
    """Names of the shards that have a file in ``folder`` of the archive, sorted."""
    suffix = ".sha256" if folder == SUMS else ".parquet"
    entries = (Folder(archive_uri) / folder).list(suffix=suffix)
    return [entry.name.removesuffix(suffix) for entry in entries]


def intact_ledger(archive_uri: str, shard: str, form: ArchiveFormat) -> Ledger | None:
    """The ledger of a shard when its part, ledger and checksums are exactly what was written, else None.

    Raises:
        ConflictError: they are intact, but those of an archive of another format than ``form``.
        StorageError: the store fails; not knowing is not the same as damaged.
    """
    archive = Folder(archive_uri)
    try:
        part, encoded, sums = (archive.read(name(shard)) for name in (part_name, ledger_name, sums_name))
        ledger = Ledger.decode(encoded, ledger_name(shard))
        if sums != sums_text(shard, sha256(part), sha256(encoded)) or ledger.part_sha256 != sha256(part):
            return None
        metadata = PartMetadata.of_file(open_part(io.BytesIO(part), part_name(shard)), part_name(shard))
    except (NotFoundError, FormatError):
        return None
    if metadata.format != form or metadata.shard != shard:
        uri = archive.join(part_name(shard))
        fix = "move it away with its ledger and checksums"
        raise ConflictError("a foreign part", value=uri, expected=f"the format of {archive_uri}", fix=fix)
    return ledger
