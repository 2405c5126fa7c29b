"""Bytes an audio-second in the archive: the token column against its bound, everything else against 5 B.

    python infra/benchmarks/bench_archive_size.py [ARCHIVE | SHARDS]...

Synthetic parts of uniform and of skewed digits (128 dims, 4 levels, 2.5 frames/s), plain and compact, of the sizes that
shards of 64, 256 and 1,024 MB make. ARCHIVE is written anew, against the measured entropy of its digits,
and each column against what is in it; SHARDS likewise with random tokens and salience, so that what utterances cost
is seen before anything is trained.
"""

from __future__ import annotations

import io
import itertools
import lzma
from collections import Counter
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from command_line import Parser, run
from numpy.typing import NDArray

from syllabary.model.measures.usage import entropy_bits
from syllabary.shards import dataset, store
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat, Encoding, PartMetadata
from syllabary.shards.archive.reader import ArchiveReader

RATE, HOP = 16_000, 6_400
UNIFORM = (0.25, 0.25, 0.25, 0.25)
FORM = ArchiveFormat("e" * 64, "c" * 64, Packing(128, 4, 7), RATE, HOP)


def synthetic_rows(num_rows: int, rng: np.random.Generator) -> pa.Table:
    """An index: utterances of 8 to 15 s, 20 a recording, 200 a speaker."""
    rows, at = [], 0
    for i, num_samples in enumerate(rng.integers(8 * RATE, 15 * RATE, num_rows).tolist()):
        at = 0 if i % 20 == 0 else at
        recording = f"small/{i // 200}/book/chapter_{i // 20:02}_64kb"
        rows.append({
            "utterance_id": f"{recording}@{at:010}", "recording_id": recording, "speaker": str(i // 200),
            "split": "train", "shard": "train-000000", "key": str(i), "offset": i, "size_bytes": 1,
            "sample_rate": RATE, "num_samples": num_samples, "start_sample": at, "sha256": "0" * 64,
            "source": f"{recording}.flac", "language": "en", "snr_db": 10.0 + i // 20 % 7,
        })  # fmt: skip
        at += num_samples + int(rng.integers(1_000, 20_000))
    return pa.Table.from_pylist(rows, schema=dataset.INDEX_SCHEMA)


def random_part(
    rows: pa.Table, rng: np.random.Generator, shares: tuple[float, ...] = UNIFORM, encoding: Encoding = "plain"
) -> Part:
    """A part of index rows with random digits of these shares and random salience."""
    lengths = zip(rows["num_samples"].to_pylist(), rows["sample_rate"].to_pylist(), strict=True)
    frames = [FORM.num_frames(*length) for length in lengths]
    digits = [rng.choice(4, (f, 128), p=shares).astype(np.uint8) for f in frames]
    salience = [np.clip(rng.normal(128, 25, f), 0, 255).astype(np.uint8) for f in frames]
    return Part.of(rows, [FORM.packing.pack(d) for d in digits], salience, replace(FORM, encoding=encoding))


@dataclass(frozen=True)
class Part:
    """A part as it is written now: its table, its bytes, and the digits in it [F, D]."""

    table: pa.Table
    data: bytes
    digits: NDArray[np.uint8]

    @classmethod
    def of(
        cls, rows: pa.Table, tokens: list[NDArray[np.uint16]], salience: list[NDArray[np.uint8]], form: ArchiveFormat
    ) -> Part:
        """The part of index ``rows`` with these tokens [F, G] and salience [F]."""
        table = token_archive.part_table(rows, tokens, salience, PartMetadata(form, "train-000000", "0" * 64))
        digits = [form.packing.unpack(t) for t in tokens]
        return cls(table, encode_part(table), np.concatenate(digits))

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return float((self.table["num_samples"].to_numpy() / self.table["sample_rate"].to_numpy()).sum())

    def column_bytes(self) -> Counter[str]:
        """Bytes of every column with its page headers, and of the footer."""
        metadata = pq.ParquetFile(io.BytesIO(self.data)).metadata
        groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
        found: Counter[str] = Counter()
        for column in (group.column(c) for group in groups for c in range(metadata.num_columns)):
            found[column.path_in_schema.partition(".")[0]] += column.total_compressed_size
        found["footer"] = len(self.data) - found.total()
        return found


def entropy_bytes(digits: NDArray[np.uint8]) -> float:
    """Entropy in bytes of all digits [F, D], each dim by its own distribution."""
    return sum(_entropy_bytes(np.bincount(dim)) for dim in digits.T)


def _entropy_bytes(counts: NDArray[np.int64]) -> float:
    return float(counts.sum() * entropy_bits(torch.from_numpy(counts)) / 8)


def content_bytes(column: pa.ChunkedArray) -> float:
    """What is in a column: values of frames by their entropy, numbers and texts, each text once, as LZMA has them."""
    if pa.types.is_list(column.type):
        return _entropy_bytes(np.bincount(column.combine_chunks().flatten().to_numpy(), minlength=1))
    if pa.types.is_string(column.type):
        return _lzma_bytes("\n".join(text or "" for text in pc.unique(column).to_pylist()).encode())
    values = column.combine_chunks().drop_null().to_numpy()
    return _lzma_bytes(values.view(np.uint8).reshape(len(values), -1).T.tobytes())


def _lzma_bytes(data: bytes) -> int:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))


def line(name: str, parts: list[Part], form: ArchiveFormat) -> str:
    """One row of the result table. The bound is of unpadded audio, so padding of last frames counts against us."""
    size, seconds = sum(len(part.data) for part in parts), sum(part.duration_s for part in parts)
    tokens = sum(part.column_bytes()["tokens"] for part in parts)
    entropy = entropy_bytes(np.concatenate([part.digits for part in parts]))
    frames = seconds * form.model_sample_rate / form.hop_length
    bound = frames * form.packing.num_dims * np.log2(form.packing.levels) / 8
    rates = f"{tokens / seconds:.2f} | {bound / seconds:.2f} | {tokens / bound:.3f} | {entropy / seconds:.2f}"
    return f"| {name} | {rates} | {tokens / entropy:.3f} | {(size - tokens) / seconds:.2f} |"


def report_columns(name: str, parts: list[Part]) -> None:
    """Print what is stored of each column beside the tokens and what is in it, and the parts one by one."""
    seconds = sum(part.duration_s for part in parts)
    stored = sum((part.column_bytes() for part in parts), Counter())
    rows = pa.concat_tables([part.table for part in parts])
    recordings = len(pc.unique(rows["recording_id"]))
    print(f"\n{name}: {len(rows):,} utterances of {seconds / len(rows):.1f} s in {recordings:,} recordings\n")
    print("| beside the tokens | stored B/s | content B/s |\n| --- | --- | --- |")
    for column, size in stored.most_common():
        if column in rows.column_names and column != "tokens":
            content = sum(content_bytes(part.table[column]) for part in parts)
            print(f"| {column} | {size / seconds:.3f} | {content / seconds:.3f} |")
    print(f"| footers | {stored['footer'] / seconds:.3f} | |")
    print("\n| part of | utterances | all else B/s |\n| --- | --- | --- |")
    for part in parts:
        beside = (len(part.data) - part.column_bytes()["tokens"]) / part.duration_s
        print(f"| {part.duration_s / 60:.0f} min | {len(part.table):,} | {beside:.2f} |")


def parts_of(uri: str) -> tuple[list[Part], ArchiveFormat]:
    """The parts of an archive, or of shards with random tokens, written anew."""
    if store.exists(store.join(uri, "index")):
        rng = np.random.default_rng(0)
        return [random_part(dataset.read_index_part(uri, shard), rng) for shard in dataset.committed_shards(uri)], FORM
    reader = ArchiveReader.open(uri)
    form, parts = reader.format, []
    for shard in reader.shards:
        table = pa.concat_tables(reader.scan(None, None, [shard]))
        tokens = token_archive.row_tokens(table, form.packing.num_groups)
        rows = table.drop_columns(["tokens", "salience", "crc32c", "num_frames", "packing"])
        parts.append(Part.of(rows, tokens, token_archive.list_values(table["salience"]), form))
    return parts, form


def main() -> None:
    """Print the tables."""
    parser = Parser(__doc__)
    parser.add_argument("uris", nargs="*", metavar="URI", help="an archive, or shards")
    given = {uri: parts_of(uri) for uri in parser.parse_args().uris}
    print("| part | token B/s | bound B/s | ratio to it | entropy B/s | ratio to it | all else B/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, shares in (("uniform", UNIFORM), ("skewed", (0.1, 0.4, 0.4, 0.1))):
        for num_rows, encoding in itertools.product((330, 1320, 5280), get_args(Encoding)):
            rng = np.random.default_rng(0)
            part = random_part(synthetic_rows(num_rows, rng), rng, shares, encoding)
            print(line(f"{name}, {num_rows} utterances, {encoding}", [part], FORM))
    for uri, (parts, form) in given.items():
        print(line(f"{uri}, {form.encoding}", parts, form))
    for uri, (parts, _) in given.items():
        report_columns(uri, parts)


if __name__ == "__main__":
    run(main)
