"""Bytes an audio-second in the archive: the token column against its bound, everything else against 5 B.

    python infra/benchmarks/bench_archive_size.py [ARCHIVE]

Synthetic parts of uniform and of skewed digits (128 dims, 4 levels, 2.5 frames/s), each with the size of the parts that
shards of 64 and 256 MB make; with ARCHIVE also that archive, against the measured entropy of its own digits.
"""

from __future__ import annotations

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards import index, store, token_archive
from shards.archive_reader import ArchiveReader
from shards.packing import Packing
from shards.token_archive import ArchiveFormat, PartMetadata

RATE, HOP = 16_000, 6_400
FORM = ArchiveFormat("e" * 64, "c" * 64, Packing(128, 4, 7), RATE, HOP)


def synthetic_part(num_rows: int, shares: list[float], seed: int = 0) -> tuple[bytes, float, np.ndarray]:
    """Part bytes, seconds of audio, digits [F, 128]: utterances of 8 to 15 s, 20 a recording, 200 a speaker."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8 * RATE, 15 * RATE, num_rows)
    rows, at = [], 0
    for i, num_samples in enumerate(lengths.tolist()):
        at = 0 if i % 20 == 0 else at
        recording = f"small/{i // 200}/book/chapter_{i // 20:02}_64kb"
        rows.append({
            "utterance_id": f"{recording}@{at:010}", "recording_id": recording, "speaker": str(i // 200),
            "split": "train", "shard": "train-000000", "key": str(i), "offset": i, "size_bytes": 1,
            "sample_rate": RATE, "num_samples": num_samples, "start_sample": at, "sha256": "0" * 64,
            "source": f"{recording}.flac", "language": "en", "snr_db": 10.0 + i // 20 % 7,
        })  # fmt: skip
        at += num_samples + int(rng.integers(1_000, 20_000))
    table = pa.Table.from_pylist(rows, schema=index.INDEX_SCHEMA)
    frames = [FORM.num_frames(n, RATE) for n in lengths.tolist()]
    digits = [rng.choice(4, (f, 128), p=shares).astype(np.uint8) for f in frames]
    salience = [np.clip(rng.normal(128, 25, f), 0, 255).astype(np.uint8) for f in frames]
    part = token_archive.part_table(
        table, [FORM.packing.pack(d) for d in digits], salience, PartMetadata(FORM, "train-000000", "0" * 64)
    )
    return token_archive.encode_part(part), float(lengths.sum()) / RATE, np.concatenate(digits)


def entropy_bytes(digits: np.ndarray) -> float:
    """Entropy in bytes of all digits [F, D], each dim by its own distribution."""
    bits = 0.0
    for dim in digits.T:
        share = np.bincount(dim)[np.bincount(dim) > 0] / len(dim)
        bits -= len(dim) * float((share * np.log2(share)).sum())
    return bits / 8


def token_bytes(part: bytes) -> int:
    """Compressed size of the token column."""
    metadata = pq.ParquetFile(io.BytesIO(part)).metadata
    columns = [
        metadata.row_group(g).column(c) for g in range(metadata.num_row_groups) for c in range(metadata.num_columns)
    ]
    return sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith("tokens"))


def line(name: str, size: int, tokens: int, seconds: float, entropy: float, form: ArchiveFormat) -> str:
    """One row of the result table. The bound is of unpadded audio, so padding of last frames counts against us."""
    frames = seconds * form.model_sample_rate / form.hop_length
    bound = frames * form.packing.num_dims * np.log2(form.packing.levels) / 8
    rates = f"{tokens / seconds:.2f} | {bound / seconds:.2f} | {tokens / bound:.3f} | {entropy / seconds:.2f}"
    return f"| {name} | {rates} | {tokens / entropy:.3f} | {(size - tokens) / seconds:.2f} |"


def main() -> None:
    """Print the table."""
    print("| part | token B/s | bound B/s | ratio to it | entropy B/s | ratio to it | all else B/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, shares in (("uniform", [0.25] * 4), ("skewed", [0.1, 0.4, 0.4, 0.1])):
        for rows in (330, 1320):
            part, seconds, digits = synthetic_part(rows, shares)
            print(
                line(f"{name}, {rows} utterances", len(part), token_bytes(part), seconds, entropy_bytes(digits), FORM)
            )
    for uri in sys.argv[1:]:
        reader = ArchiveReader.open(uri)
        packing, size, tokens, seconds, digits = reader.format.packing, 0, 0, 0.0, []
        for entry in store.list_files(store.join(uri, "parts")):
            part = store.read_bytes(entry.uri)
            size, tokens = size + len(part), tokens + token_bytes(part)
        for table in reader.scan(None, ["num_samples", "sample_rate", "tokens"]):
            seconds += float((table["num_samples"].to_numpy() / table["sample_rate"].to_numpy()).sum())
            digits += [packing.unpack(row) for row in token_archive.row_tokens(table, packing.num_groups)]
        print(line("given archive", size, tokens, seconds, entropy_bytes(np.concatenate(digits)), reader.format))


if __name__ == "__main__":
    main()
