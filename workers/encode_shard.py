"""One shard to one archive part: decode and resample ahead in a thread, encode, checksum, publish.

The part's bytes follow from the shard and the tokenizer alone: tokens do not depend on batch or neighbours (decision
6), rows keep the order of the index. So any number of processes may do the same shard; the result is one.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards import audio, index, outputs, store, token_archive, wds
from shards.archive_ledger import LEDGER_SCHEMA, QUARANTINED, TOKENIZED, Ledger, publish_part, sha256
from shards.errors import NotFoundError, StorageError, SyllabaryError
from shards.token_archive import ArchiveFormat, PartMetadata
from workers.job_main import say

if TYPE_CHECKING:
    from workers.tokenizer import Tokenizer

T = TypeVar("T")
MAX_UTTERANCE_S = 600.0  # a longer clip would need memory without bound: quarantined


@dataclass(frozen=True)
class BatchPolicy:
    """How utterances are put together: sorted by length within ``window`` utterances, ``size`` a batch.

    One at a time is the fastest on a CPU; a GPU wants many of equal length. Tokens are the same either way.
    """

    size: int = 1
    window: int = 1


@dataclass(frozen=True)
class Utterance:
    """An utterance ready to encode: its place in the shard and its waveform float32 [num_samples] at the model's rate;
    ``error`` instead of a waveform when it cannot be decoded."""

    position: int
    waveform: NDArray[np.float32] | None
    error: str = ""


@dataclass(frozen=True)
class EncodedRow:
    """Tokens uint16 [F, G] and salience uint8 [F] of one utterance, or why it has none."""

    tokens: NDArray[np.uint16] | None = None
    salience: NDArray[np.uint8] | None = None
    error: str = ""


def archive_format(tokenizer: Tokenizer) -> ArchiveFormat:
    """The archive format that a tokenizer writes."""
    config = tokenizer.config.model_dump(mode="json")
    return ArchiveFormat(
        encoder_digest=tokenizer.encoder_digest,
        recipe_digest=outputs.digest({key: config[key] for key in ("encoder", "fsq")}),
        packing=tokenizer.packing,
        model_sample_rate=tokenizer.framing.sample_rate,
        hop_length=tokenizer.framing.hop_length,
    )


def encode_shard(
    tokenizer: Tokenizer, shards_uri: str, shard: str, policy: BatchPolicy | None = None
) -> tuple[bytes, Ledger]:
    """Part bytes and ledger of a shard.

    Raises:
        DamageError: the shard's bytes are not what its index says.
        StorageError: the store fails.
    """
    rows = index.read_index_part(shards_uri, shard)
    form = archive_format(tokenizer)
    utterances = prefetched(decoded_utterances(shards_uri, shard, form.model_sample_rate), depth=8)
    encoded: list[EncodedRow] = [EncodedRow() for _ in range(len(rows))]
    for batch in length_sorted_batches(utterances, policy or BatchPolicy()):
        for utterance, row in zip(batch, encode_batch(tokenizer, batch), strict=True):
            encoded[utterance.position] = row
    _require_exact_frames(encoded, rows, form)
    metadata = PartMetadata(form, shard, token_archive.shard_digest(rows))
    kept = [i for i, row in enumerate(encoded) if row.tokens is not None]
    table = token_archive.part_table(
        rows.take(pa.array(kept, pa.int64())),
        [row.tokens for row in encoded if row.tokens is not None],
        [row.salience for row in encoded if row.salience is not None],
        metadata,
    )
    part = token_archive.encode_part(table)
    return part, _ledger(rows, encoded, metadata, part)


def decoded_utterances(shards_uri: str, shard: str, sample_rate: int) -> Iterator[Utterance]:
    """The utterances of a shard in order, decoded and resampled to ``sample_rate``."""
    for position, (row, flac) in enumerate(wds.iter_shard(shards_uri, shard)):
        if row["num_samples"] > MAX_UTTERANCE_S * row["sample_rate"]:
            yield Utterance(position, None, f"longer than {MAX_UTTERANCE_S:.0f} s: shard it into shorter utterances")
            continue
        try:
            samples, rate = audio.decode(flac)
        except SyllabaryError as error:
            yield Utterance(position, None, str(error))
            continue
        if (len(samples), rate) != (row["num_samples"], row["sample_rate"]):
            expected = f"{row['num_samples']} at {row['sample_rate']} Hz"
            yield Utterance(position, None, f"decodes to {len(samples)} samples at {rate} Hz; expected {expected}")
            continue
        yield Utterance(position, audio.resample(samples, rate, sample_rate))


def length_sorted_batches(utterances: Iterable[Utterance], policy: BatchPolicy) -> Iterator[list[Utterance]]:
    """Batches of utterances of near-equal length, so that little of a batch is padding."""
    stream = iter(utterances)
    while window := list(itertools.islice(stream, policy.window)):
        window.sort(key=lambda u: (0 if u.waveform is None else len(u.waveform), u.position))
        for start in range(0, len(window), policy.size):
            yield window[start : start + policy.size]


def encode_batch(tokenizer: Tokenizer, batch: list[Utterance]) -> list[EncodedRow]:
    """Tokens of each utterance; when the tokenizer refuses one, the others of its batch are encoded alone."""
    sound = [u.waveform for u in batch if u.waveform is not None and len(u.waveform)]
    try:
        encoded = iter(tokenizer.encode(sound, tokenizer.framing.sample_rate) if sound else [])
    except ValueError as error:
        if len(batch) > 1:
            return [row for utterance in batch for row in encode_batch(tokenizer, [utterance])]
        return [EncodedRow(error=f"the tokenizer refuses it: {error}")]
    rows = []
    for utterance in batch:
        if utterance.waveform is None:
            rows.append(EncodedRow(error=utterance.error))
        elif not len(utterance.waveform):
            empty = np.empty((0, tokenizer.packing.num_groups), np.uint16)
            rows.append(EncodedRow(empty, np.empty(0, np.uint8)))
        else:
            found = next(encoded)
            rows.append(EncodedRow(found.tokens, found.salience))
    return rows


def prefetched(items: Iterable[T], depth: int) -> Iterator[T]:
    """The items, produced ``depth`` ahead in a thread: storage and FLAC decoding overlap with the encoder."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(entry: tuple[T | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                offer((item, None))
            offer((None, StopIteration()))
        except BaseException as error:  # handed to the consumer, which raises it
            offer((None, error))

    threading.Thread(target=produce, daemon=True, name="decode").start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()


def persist(action: Callable[[], T], patience_s: float, what: str) -> T:
    """``action`` again and again while the store fails, for up to ``patience_s`` seconds.

    Raises:
        StorageError: the last one, when the store has not come back.
        NotFoundError: at once; waiting brings nothing back.
    """
    deadline, wait_s = time.monotonic() + patience_s, 0.5
    while True:
        try:
            return action()
        except NotFoundError:
            raise
        except StorageError as error:
            if time.monotonic() + wait_s > deadline:
                raise
            say("tokenize", f"{what}: {error}; trying again in {wait_s:.0f} s")
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, 15.0)


class ShardEncoder:
    """The Ray actor: one tokenizer, one thread; called with ``{"shard": name}`` it publishes that shard's part."""

    def __init__(self, shards_uri: str, tokenizer_uri: str, archive_uri: str, patience_s: float) -> None:
        import torch

        from workers.tokenizer import Tokenizer

        torch.set_num_threads(1)
        self._shards_uri, self._archive_uri = shards_uri, archive_uri
        self._patience_s = patience_s if store.is_remote(archive_uri) or store.is_remote(shards_uri) else 0.0
        self._tokenizer = Tokenizer.load(tokenizer_uri, decoder=False)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Figures of the published part; ``error`` is the one line of a failure, else empty."""
        shard = str(row["shard"])
        try:
            return {"shard": shard, "error": "", **self._publish(shard)}
        except SyllabaryError as error:
            kind = type(error).__name__
            return {"shard": shard, "error": f"{shard}: {error}", "storage": kind == "StorageError", **NO_FIGURES}

    def _publish(self, shard: str) -> dict[str, Any]:
        part, ledger = persist(
            lambda: encode_shard(self._tokenizer, self._shards_uri, shard), self._patience_s, f"reading {shard}"
        )
        persist(lambda: publish_part(self._archive_uri, part, ledger), self._patience_s, f"publishing {shard}")
        return {"storage": False, **figures(ledger)}


NO_FIGURES = {"num_tokenized": 0, "num_quarantined": 0, "tokenized_s": 0.0, "quarantined_s": 0.0, "size_bytes": 0}


def figures(ledger: Ledger) -> dict[str, Any]:
    """What one shard adds to the archive's totals."""
    return {
        "num_tokenized": ledger.count(TOKENIZED),
        "num_quarantined": ledger.count(QUARANTINED),
        "tokenized_s": ledger.seconds(TOKENIZED),
        "quarantined_s": ledger.seconds(QUARANTINED),
        "size_bytes": ledger.part_size_bytes,
    }


def _require_exact_frames(encoded: list[EncodedRow], rows: pa.Table, form: ArchiveFormat) -> None:
    """A tokenizer that breaks its contract must not reach the archive."""
    for row, num_samples, rate in zip(
        encoded, rows["num_samples"].to_pylist(), rows["sample_rate"].to_pylist(), strict=True
    ):
        if row.tokens is None:
            continue
        expected = (form.num_frames(num_samples, rate), form.packing.num_groups)
        assert row.tokens.shape == expected, f"tokens {row.tokens.shape} for {num_samples} samples, not {expected}"
        assert row.salience is not None and row.salience.shape == expected[:1]
        form.packing.require_valid(row.tokens)


def _ledger(rows: pa.Table, encoded: list[EncodedRow], metadata: PartMetadata, part: bytes) -> Ledger:
    status = [QUARANTINED if row.tokens is None else TOKENIZED for row in encoded]
    columns = {f.name: rows[f.name] for f in LEDGER_SCHEMA if f.name in rows.column_names}
    reasons = pa.array([row.error or None for row in encoded], pa.string())
    table = pa.table(columns | {"status": pa.array(status, pa.string()), "reason": reasons})
    table = table.select(LEDGER_SCHEMA.names).cast(LEDGER_SCHEMA)
    return Ledger(metadata.shard, metadata.shard_digest, sha256(part), len(part), table)
