"""Small shards, a small random-weight tokenizer and archives made without either, for every test of the archive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from syllabary.shards import audio, dataset, outputs, store
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.ledger import LEDGER_SCHEMA, TOKENIZED, Ledger, publish_part, sha256
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat, PartMetadata
from syllabary.shards.dataset import ShardWriter

RATE = 16_000
FORMAT = ArchiveFormat("e" * 64, "c" * 64, Packing(128, 4, 7), RATE, 6_400)


def make_shards(
    uri: str, shards: Sequence[str] = ("train-000000", "train-000001", "valid-000000"), num_utterances: int = 4
) -> str:
    """Shards of noise bursts under ``uri``: two recordings a shard, cut into utterances of 0.4 to 1.6 s."""
    outputs.claim(uri, "shards", inputs={"source": "synthesized"}, config={})
    for number, shard in enumerate(shards):
        make_shard(uri, shard, number, num_utterances)
    return uri


def make_shard(uri: str, shard: str, seed: int, num_utterances: int = 4) -> None:
    """One more shard; the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    with (
        store.publishing(dataset.shard_uri(uri, shard)) as path,
        ShardWriter(path) as writer,
    ):
        for number, row in enumerate(utterance_rows(shard, seed, num_utterances)):
            envelope = np.sin(np.linspace(0, 9 + number, row["num_samples"])) ** 2
            wave = (0.2 * envelope * rng.standard_normal(row["num_samples"])).astype(np.float32)
            flac = audio.encode_flac(wave, RATE)
            offset = writer.add(row["key"], flac, {"utterance_id": row["utterance_id"]})
            rows.append(row | {"offset": offset, "size_bytes": len(flac), "sha256": hashlib.sha256(flac).hexdigest()})
    dataset.publish_index(uri, shard, rows)


def utterance_rows(shard: str, seed: int, num_utterances: int) -> list[dict[str, Any]]:
    """Index rows without the bytes: recordings of at most ``num_utterances / 2`` utterances, gaps of 0.1 s."""
    rng, rows, at = np.random.default_rng(seed), [], 0
    for number in range(num_utterances):
        half = number * 2 // num_utterances
        at = 0 if number * 2 % num_utterances == 0 else at
        num_samples = int(rng.integers(int(0.4 * RATE), int(1.6 * RATE)))
        recording = f"{100 + seed}/book/chapter_{half}"
        rows.append(
            {
                "utterance_id": f"{recording}-{at:09}",
                "recording_id": recording,
                "speaker": str(100 + seed),
                "split": shard.rpartition("-")[0],
                "shard": shard,
                "key": f"{number:06}",
                "sample_rate": RATE,
                "num_samples": num_samples,
                "start_sample": at,
                "source": f"{recording}.flac",
                "language": "en" if seed % 2 else None,
                "snr_db": 10.0 + seed,
                "offset": number,
                "size_bytes": 1,
                "sha256": hashlib.sha256(f"{shard}{number}".encode()).hexdigest(),
            }
        )
        at += num_samples + RATE // 10
    return rows


def tiny_config() -> Any:
    """The smallest model of the paper's shape: hop 6,400 at 16 kHz, 128 dims."""
    from syllabary.model.config import (
        ConformerConfig,
        EncoderConfig,
        HifiganDecoderConfig,
        ModelConfig,
        WaveformFrontEndConfig,
    )

    front_end = WaveformFrontEndConfig(channels=(4, 4, 4, 4, 8, 8), strides=(8, 8, 5, 5, 4), num_residual_blocks=1)
    encoder = EncoderConfig(
        sample_rate=RATE, front_end=front_end, conformer=ConformerConfig(num_layers=1, num_heads=4, conv_kernel=3)
    )
    decoder = HifiganDecoderConfig(
        channels=(8, 8, 4, 4, 4, 4), strides=(4, 5, 5, 8, 8), mrf_kernels=(3,), mrf_dilations=((1,),)
    )
    return ModelConfig(encoder=encoder, decoder=decoder)


def make_tokenizer(uri: str, *, seed: int = 0, decoder_seed: int | None = None) -> str:
    """A tokenizer directory with random weights; ``seed`` fixes the encoder, ``decoder_seed`` the decoder."""
    import torch

    from syllabary.model.codec import make_generator
    from syllabary.model.encoder import Encoder
    from syllabary.workers.tokenizer.tokenizer import save_tokenizer

    config = tiny_config()
    torch.manual_seed(seed)
    encoder = Encoder(config.encoder).state_dict()
    torch.manual_seed(seed if decoder_seed is None else decoder_seed)
    save_tokenizer(uri, config, encoder, make_generator(config).state_dict(), recipe={"name": "test"})
    return uri


def make_base(
    folder: Path, shards: Sequence[str] = ("train-000000", "train-000001", "valid-000000"), num_utterances: int = 4
) -> Path:
    """``folder`` with ``shards``, ``tokenizer``, and ``archive`` as one process writes it without Ray."""
    from syllabary.workers.archive.encode_shard import ShardEncoder, archive_format
    from syllabary.workers.tokenizer.tokenizer import Tokenizer

    uris = [str(folder / name) for name in ("shards", "tokenizer", "archive")]
    make_shards(uris[0], shards, num_utterances)
    make_tokenizer(uris[1])
    archive_format(Tokenizer.load(uris[1], decoder=False)).claim(uris[2])
    encoder = ShardEncoder(*uris, patience_s=0.0)
    for shard in dataset.committed_shards(uris[0]):
        row = encoder({"shard": shard})
        assert not row["error"], row["error"]
    return folder


def archive_contents(archive: str) -> dict[str, bytes]:
    """Claim, parts and ledgers of an archive, by name: what is encoded, without summary and what describes it."""
    kept = ("output.json", "parts/", "ledger/")
    return {e.name: store.read_bytes(e.uri) for e in store.list_files(archive) if e.name.startswith(kept)}


def make_archive(
    uri: str,
    shards: Sequence[str] = ("train-000000", "train-000001", "valid-000000"),
    num_utterances: int = 40,
    *,
    packing: Packing = FORMAT.packing,
    row_group_size: int = 16,
    form: ArchiveFormat | None = None,
) -> dict[str, np.ndarray]:
    """An archive of random digits without any audio; returns the digits [F, D] of every utterance_id.

    ``form`` is that of a tokenizer, so that it can restore them.
    """
    form = form or ArchiveFormat("e" * 64, "c" * 64, packing, RATE, 6_400)
    form.claim(uri)
    truth: dict[str, np.ndarray] = {}
    for seed, shard in enumerate(shards):
        table = pa.Table.from_pylist(utterance_rows(shard, seed, num_utterances), schema=dataset.INDEX_SCHEMA)
        truth |= make_part(uri, table, form, shard, seed, row_group_size)
    return truth


def make_part(
    uri: str, rows: pa.Table, form: ArchiveFormat, shard: str, seed: int, row_group_size: int
) -> dict[str, np.ndarray]:
    """One more part, of index ``rows`` and random digits and salience; returns the digits of every utterance_id."""
    rng = np.random.default_rng(1000 + seed)
    pairs = zip(rows["num_samples"].to_pylist(), rows["sample_rate"].to_pylist(), strict=True)
    frames = [form.num_frames(*pair) for pair in pairs]
    digits = [rng.integers(0, form.packing.levels, (f, form.packing.num_dims)) for f in frames]
    salience = [rng.integers(0, 256, f).astype(np.uint8) for f in frames]
    metadata = PartMetadata(form, shard, token_archive.shard_digest(rows))
    table = token_archive.part_table(rows, [form.packing.pack(d) for d in digits], salience, metadata)
    part = encode_part(table, row_group_size=row_group_size)
    status = pa.table({"status": [TOKENIZED] * len(rows), "reason": pa.nulls(len(rows), pa.string())})
    ledger = pa.table({n: (status if n in status.column_names else rows)[n] for n in LEDGER_SCHEMA.names})
    publish_part(uri, part, Ledger(shard, metadata.shard_digest, sha256(part), len(part), ledger.cast(LEDGER_SCHEMA)))
    return dict(zip(rows["utterance_id"].to_pylist(), digits, strict=True))
