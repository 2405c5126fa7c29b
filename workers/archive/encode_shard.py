"""One shard to one archive part: decode and resample ahead in a thread, encode, checksum, publish.

The part's bytes follow from the shard and the tokenizer alone: every utterance is encoded by itself (decision 6) and
rows keep the order of the index. So any number of processes may do the same shard; the result is one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from syllabary.shards import audio, dataset, outputs, store
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.ledger import LEDGER_SCHEMA, QUARANTINED, TOKENIZED, Ledger, publish_part, sha256
from syllabary.shards.archive.parts import ArchiveFormat, Encoding, PartMetadata
from syllabary.shards.errors import NotFoundError, StorageError, SyllabaryError
from syllabary.workers.cluster.actors import refused
from syllabary.workers.cluster.devices import assigned_device
from syllabary.workers.cluster.memory import keep_freed_memory
from syllabary.workers.control.log import say
from syllabary.workers.control.patience import patiently
from syllabary.workers.recipes.bitrates import packing_of

if TYPE_CHECKING:
    from syllabary.workers.tokenizer.directory import TokenizerFiles
    from syllabary.workers.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")
MAX_UTTERANCE_S = 3600.0  # a longer one would need memory without bound: quarantined
_PREFETCHED = 4


@dataclass(frozen=True)
class Utterance:
    """An utterance ready to encode: its waveform float32 [num_samples] at the model's rate, or why it has none."""

    waveform: NDArray[np.float32] | None = None
    error: str = ""


@dataclass(frozen=True)
class EncodedRow:
    """Tokens uint16 [F, G] and salience uint8 [F] of one utterance, or why it has none."""

    tokens: NDArray[np.uint16]
    salience: NDArray[np.uint8]
    error: str = ""


def archive_format(tokenizer: Tokenizer | TokenizerFiles, encoding: Encoding = "plain") -> ArchiveFormat:
    """The format of an archive that this tokenizer writes in that encoding; its files suffice, without networks."""
    config, framing = tokenizer.config.model_dump(mode="json"), tokenizer.config.framing
    return ArchiveFormat(
        encoder_digest=tokenizer.digests.encoder,
        recipe_digest=outputs.digest({key: config[key] for key in ("encoder", "fsq")}),
        packing=packing_of(tokenizer.config),
        model_sample_rate=framing.sample_rate,
        hop_length=framing.hop_length,
        encoding=encoding,
    )


def encode_shard(
    tokenizer: Tokenizer, shards_uri: str, shard: str, encoding: Encoding = "plain"
) -> tuple[bytes, Ledger]:
    """Encode a shard; returns the bytes of its part, in that encoding, and its ledger.

    Raises:
        DamageError: the shard's bytes are not what its index says.
        StorageError: the store fails.
    """
    rows = dataset.read_index_part(shards_uri, shard)
    form = archive_format(tokenizer, encoding)
    utterances = prefetched(decoded_utterances(shards_uri, shard, form.model_sample_rate, rows), _PREFETCHED)
    encoded = [encode_utterance(tokenizer, utterance) for utterance in utterances]
    _require_exact_frames(encoded, rows, form)
    metadata = PartMetadata(form, shard, token_archive.shard_digest(rows), tokenizer.computed_on)
    kept = [i for i, row in enumerate(encoded) if not row.error]
    table = token_archive.part_table(
        rows.take(pa.array(kept, pa.int64())),
        [encoded[i].tokens for i in kept],
        [encoded[i].salience for i in kept],
        metadata,
    )
    part = encode_part(table)
    return part, _ledger(rows, encoded, metadata, part)


def decoded_utterances(
    shards_uri: str, shard: str, sample_rate: int, part: pa.Table | None = None
) -> Iterator[Utterance]:
    """The utterances of a shard in order, decoded and resampled to ``sample_rate``; ``part`` as for ``iter_shard``."""
    for row, flac in dataset.iter_shard(shards_uri, shard, part):
        if row["num_samples"] > MAX_UTTERANCE_S * row["sample_rate"]:
            yield Utterance(error=f"longer than {MAX_UTTERANCE_S:.0f} s: shard it into shorter utterances")
            continue
        try:
            samples, rate = audio.decode(flac)
        except SyllabaryError as error:
            yield Utterance(error=str(error))
            continue
        if (len(samples), rate) != (row["num_samples"], row["sample_rate"]):
            expected = f"{row['num_samples']} at {row['sample_rate']} Hz"
            yield Utterance(error=f"decodes to {len(samples)} samples at {rate} Hz; expected {expected}")
            continue
        yield Utterance(audio.resample(samples, rate, sample_rate))


def encode_utterance(tokenizer: Tokenizer, utterance: Utterance) -> EncodedRow:
    """Tokens and salience, or why there are none; an utterance of zero samples has zero frames."""
    nothing = EncodedRow(np.empty((0, tokenizer.packing.num_groups), np.uint16), np.empty(0, np.uint8), utterance.error)
    if utterance.waveform is None or not len(utterance.waveform):
        return nothing
    try:
        encoded = tokenizer.encode(utterance.waveform, tokenizer.framing.sample_rate)
    except ValueError as error:
        return replace(nothing, error=f"the tokenizer refuses it: {error}")
    return EncodedRow(encoded.tokens, encoded.salience)


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
    return patiently(
        action,
        patience_s,
        passes=lambda error: isinstance(error, StorageError) and not isinstance(error, NotFoundError),
        tell=lambda error, wait_s: say("tokenize", f"{what}: {error}; trying again in {wait_s:.0f} s"),
    )


class ShardEncoder:
    """The Ray actor: one tokenizer, one thread; called with ``{"shard": name}`` it publishes that shard's part.

    It encodes on the GPU that Ray assigned it, and on the CPU where Ray assigned none.
    """

    def __init__(
        self, shards_uri: str, tokenizer_uri: str, archive_uri: str, patience_s: float, encoding: Encoding = "plain"
    ) -> None:
        import torch

        from syllabary.workers.tokenizer.tokenizer import Tokenizer

        torch.set_num_threads(1)
        keep_freed_memory()
        self._shards_uri, self._archive_uri, self._encoding = shards_uri, archive_uri, encoding
        self._patience_s = patience_s if store.is_remote(archive_uri) or store.is_remote(shards_uri) else 0.0
        self._tokenizer = Tokenizer.load(tokenizer_uri, decoder=False, device=assigned_device())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Figures of the published part; ``error`` is the one line of a failure of its ``kind``, else empty."""
        shard = str(row["shard"])
        try:
            return {"shard": shard, "error": "", "kind": "", **self._publish(shard)}
        except SyllabaryError as error:
            return {"shard": shard, **refused(error), **NO_FIGURES}

    def _publish(self, shard: str) -> dict[str, Any]:
        part, ledger = persist(
            lambda: encode_shard(self._tokenizer, self._shards_uri, shard, self._encoding),
            self._patience_s,
            f"reading {shard}",
        )
        persist(lambda: publish_part(self._archive_uri, part, ledger), self._patience_s, f"publishing {shard}")
        return figures(ledger)


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
        if row.error:
            continue
        expected = (form.num_frames(num_samples, rate), form.packing.num_groups)
        assert row.tokens.shape == expected, f"tokens {row.tokens.shape} for {num_samples} samples, not {expected}"
        assert row.salience.shape == expected[:1], f"salience {row.salience.shape}, not {expected[:1]}"
        form.packing.require_valid(row.tokens)


def _ledger(rows: pa.Table, encoded: list[EncodedRow], metadata: PartMetadata, part: bytes) -> Ledger:
    status = [QUARANTINED if row.error else TOKENIZED for row in encoded]
    columns = {f.name: rows[f.name] for f in LEDGER_SCHEMA if f.name in rows.column_names}
    reasons = pa.array([row.error or None for row in encoded], pa.string())
    table = pa.table(columns | {"status": pa.array(status, pa.string()), "reason": reasons})
    table = table.select(LEDGER_SCHEMA.names).cast(LEDGER_SCHEMA)
    return Ledger(metadata.shard, metadata.shard_digest, sha256(part), len(part), table)
