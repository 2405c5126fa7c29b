"""What tokens cost and how much of the code they use: entropies, code lengths, bytes of a real archive part.

    zeroth order    H = - sum_i p_i log2 p_i                         per token position, or per dim
    with context    bits = - sum_t log2 p(x_t | what came before)    p learned on the way, so a coder reaches it

The context model mixes three Krichevsky-Trofimov estimators of each dim's digit: without context, after the same dim's
digit one frame before, and after the previous dim's digit in the same frame. Its weights are the experts' posterior
probabilities (Bayesian mixture), each dim with its own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from syllabary.model.measures.place import between_clips, entropy_given_place, group_by_place
from syllabary.model.measures.usage import entropy_bits
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat, PartMetadata
from syllabary.workers.recipes.bitrates import Rates
from syllabary.workers.report.card import PositionUse, Rate

PART = "evaluation"
_NUM_EXPERTS, _PRIOR_COUNT = 3, 0.5


class GivenPlace(NamedTuple):
    """Bits of a frame that its place does not tell, all dims together; share of the digits' variance between clips."""

    bits: float | None
    between_clips: float | None


def position_use(tokens: NDArray[np.uint16], packing: Packing) -> tuple[PositionUse, ...]:
    """Use of each token position over tokens [F, G]."""
    uses = []
    for position, num_ids in enumerate(packing.position_sizes):
        counts = np.bincount(tokens[:, position], minlength=num_ids)
        bits = float(entropy_bits(torch.from_numpy(counts)))
        uses.append(
            PositionUse(
                position=position,
                num_ids=num_ids,
                num_used=int((counts > 0).sum()),
                entropy_bits=bits,
                perplexity=2**bits,
            )
        )
    return tuple(uses)


def context_bits(utterances: Sequence[NDArray[np.uint8]], levels: int) -> float:
    """Code length in bits of the digits [F, D] of utterances one after the other, by the adaptive context model."""
    num_dims = utterances[0].shape[1]
    dims = np.arange(num_dims)
    counts = np.full((_NUM_EXPERTS, num_dims, levels + 1, levels), _PRIOR_COUNT)
    log_weights = np.full((_NUM_EXPERTS, num_dims), -np.log(_NUM_EXPERTS))
    total = 0.0
    for digits in utterances:
        before = np.full(num_dims, levels)  # context "nothing yet"
        for frame in digits.astype(np.int64):
            contexts = np.stack([np.zeros(num_dims, np.int64), before, np.concatenate(([levels], frame[:-1]))])
            seen = np.stack([counts[e, dims, contexts[e]] for e in range(_NUM_EXPERTS)])
            log_shares = np.log(seen[:, dims, frame] / seen.sum(axis=2))
            joint = log_weights + log_shares
            mixed = np.logaddexp.reduce(joint, axis=0)
            total -= float(mixed.sum())
            log_weights = joint - mixed
            for e in range(_NUM_EXPERTS):
                counts[e, dims, contexts[e], frame] += 1
            before = frame
    return total / float(np.log(2))


def archive_part(
    rows: pa.Table, tokens: Sequence[NDArray[np.uint16]], salience: Sequence[NDArray[np.uint8]], form: ArchiveFormat
) -> bytes:
    """The utterances of index ``rows`` as an archive part: the very bytes that ``tokenize`` would store for them."""
    metadata = PartMetadata(form, PART, token_archive.shard_digest(rows))
    return encode_part(token_archive.part_table(rows, tokens, salience, metadata))


def token_column_bytes(part: bytes) -> int:
    """Compressed size of the token column of an archive part."""
    metadata = pq.ParquetFile(io.BytesIO(part)).metadata
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    columns = [group.column(c) for group in groups for c in range(metadata.num_columns)]
    return sum(int(c.total_compressed_size) for c in columns if c.path_in_schema.startswith("tokens"))


def rate_card(
    tokens: Sequence[NDArray[np.uint16]],
    part: bytes,
    duration_s: float,
    form: ArchiveFormat,
    rates: Rates,
    effective_rank: float | None,
    placed: GivenPlace,
) -> Rate:
    """All rates of the evaluated utterances; entropies count whole frames, padding of the last one included.

    Args:
        tokens: uint16 [F, G] of each utterance, at least one frame in all.
        part: the utterances as an archive part.
        duration_s: of the utterances together.
        form: of the archive, whose packing this is.
        rates: of the configuration.
        effective_rank: of the latents, when measured.
        placed: what the digits hold once the place of a frame is known.
    """
    packing = form.packing
    joined = np.concatenate(tokens)
    digits = [packing.unpack(t) for t in tokens]
    all_digits = np.concatenate(digits)
    level_counts = np.stack([np.bincount(dim, minlength=packing.levels) for dim in all_digits.T])
    dim_bits = entropy_bits(torch.from_numpy(level_counts)).numpy()
    positions = position_use(joined, packing)
    frames_per_s = len(joined) / duration_s
    return Rate(
        payload=rates.payload_bits_per_s,
        nominal=rates.nominal_bits_per_s,
        as_uint16=rates.stored_bits_per_s,
        token_entropy=frames_per_s * sum(p.entropy_bits for p in positions),
        digit_entropy=frames_per_s * float(dim_bits.sum()),
        context_entropy=context_bits(digits, packing.levels) / duration_s,
        stored=8 * token_column_bytes(part) / duration_s,
        stored_all=8 * len(part) / duration_s,
        num_frames=len(joined),
        level_share=tuple(float(share) for share in level_counts.sum(axis=0) / level_counts.sum()),
        level_perplexity=2 ** float(dim_bits.mean()),
        dead_dims=int((level_counts.max(axis=1) == level_counts.sum(axis=1)).sum()),
        num_dims=packing.num_dims,
        effective_rank=effective_rank,
        positions=positions,
        digit_entropy_given_place=None if placed.bits is None else frames_per_s * placed.bits,
        between_clips=placed.between_clips,
    )


def given_place(digits: Sequence[NDArray[np.uint8]], levels: int) -> GivenPlace:
    """What is left of digits [F, D] of clips of one length once the place of a frame is known."""
    places = torch.from_numpy(np.concatenate([np.arange(len(clip)) for clip in digits]))
    groups, joined = group_by_place(places), torch.from_numpy(np.concatenate(digits))
    bits = entropy_given_place(joined, levels, groups)
    return GivenPlace(None if bits is None else float(bits.sum()), between_clips(joined, groups))
