"""The rate of tokens and how much of the code they use: entropies, code lengths, bytes of a real archive part.

zeroth order    H = - sum_i p_i log2 p_i                         per token position, or per dim
with context    bits = - sum_t log2 p(x_t | what came before)    p learned on the way, so a coder reaches it
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

from syllabary.model.measures.context import context_bits
from syllabary.model.measures.place import between_clips, entropy_given_place, group_by_place, rank_given_place
from syllabary.model.measures.usage import entropy_bits
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat, PartMetadata
from syllabary.workers.lm.directory import LoadedLm
from syllabary.workers.lm.likelihood import utterance_bits
from syllabary.workers.recipes.bitrates import Rates
from syllabary.workers.report.card import PositionUse, Rate

PART = "evaluation"


class GivenPlace(NamedTuple):
    """What lies between clips at one place: bits of a frame over all dims, the share of the digits' variance, and of
    how many dims the latents' variance is; None where too few clips have that place."""

    bits: float | None
    between_clips: float | None
    rank: float | None


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
    language_model: LoadedLm | None = None,
) -> Rate:
    """All rates of the evaluated utterances; entropies count whole frames, padding of the last one included.

    Args:
        tokens: uint16 [F, G] of each utterance, at least one frame in all.
        part: the utterances as an archive part.
        duration_s: of the utterances together.
        form: of the archive, whose packing this is.
        rates: of the configuration.
        effective_rank: of the latents, when measured.
        placed: what digits and latents hold once the place of a frame is known.
        language_model: of the same encoder's tokens; none for no such figure.
    """
    packing = form.packing
    model_bits = None if language_model is None else utterance_bits(language_model, tokens, packing)
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
        rank_given_place=placed.rank,
        language_model=None if model_bits is None else model_bits / duration_s,
    )


def given_place(digits: Sequence[NDArray[np.uint8]], latents: Sequence[NDArray[np.float32]], levels: int) -> GivenPlace:
    """Measure what is left of digits and latents [F, D] of clips of one length once the place of a frame is known."""
    places = torch.from_numpy(np.concatenate([np.arange(len(clip)) for clip in digits]))
    groups, joined = group_by_place(places), torch.from_numpy(np.concatenate(digits))
    bits = entropy_given_place(joined, levels, groups)
    rank = rank_given_place(torch.from_numpy(np.concatenate(latents)), groups)
    return GivenPlace(None if bits is None else float(bits.sum()), between_clips(joined, groups), rank)
