"""``lm-eval``: how many bits a language model needs per token and per second of held-out speech, beside its bounds.

The payload is what the tokens could hold at most. The digit entropy is what they hold when every dimension is coded by
itself, the context entropy what an adaptive model needs that knows the frame before. A language model near the digit
entropy has found no structure; one below the context entropy has learned speech. ``shuffled`` is the same model on the
same tokens, permuted within their places: no structure is left there, and a model trained on such tokens
(``lm-train --shuffled``) comes out near the digit entropy.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch

from syllabary.model.measures.context import context_bits
from syllabary.model.measures.usage import entropy_bits
from syllabary.shards import outputs
from syllabary.shards.blocks.blocks import IGNORED
from syllabary.shards.errors import ConflictError, InputError
from syllabary.shards.store import Folder
from syllabary.workers.control.jobs import LmEvalJob
from syllabary.workers.control.log import Progress, say
from syllabary.workers.control.run_layout import LM_FIGURES
from syllabary.workers.lm.blocks_data import Batch, BlockSource, Vocabulary, frames_of
from syllabary.workers.lm.directory import load_model
from syllabary.workers.lm.speech_lm import LmLoss
from syllabary.workers.tokenizer.checks import checked_device

STAGE = "lm-eval"
Kind = Literal["all", "speech", "text"]


def lm_eval(job: LmEvalJob) -> dict[str, Any]:
    """Measure a model on a split of blocks and return the figures; with ``out``, also write them there as ``lm.json``.

    Raises:
        NotFoundError: there is no such model, or no such split.
        ConflictError: the blocks are of another tokenizer or have other ids than the model, or ``out`` holds figures of
            another model or of other blocks, which is refused before anything is measured.
        InputError: the split holds no whole frame, or this machine has no such device.
    """
    device = checked_device(job.device)
    loaded = load_model(job.model, device)
    vocabulary = Vocabulary.of_blocks(job.blocks)
    _require_same(loaded.vocabulary, vocabulary)
    source = BlockSource(job.blocks, job.split, job.seed)
    count = len(source) if job.limit is None else min(job.limit, len(source))
    claim = _claim_of(job, loaded.weights_digest)
    if job.out is not None:
        outputs.refuse_other(job.out, "report", **claim)
    loss = LmLoss(loaded.model, loaded.vocabulary)
    kind: Kind = "speech" if vocabulary.with_text else "all"
    nats, num_labels = held_out_nats(loss, source, count, job.batch_size, device, kind=kind, say_progress=True)
    shuffled, num_shuffled = held_out_nats(loss, source, count, job.batch_size, device, kind=kind, shuffle=True)
    bounds = entropies([run for i in range(count) for run in frames_of(source.block(i), vocabulary)], vocabulary)
    tokens_per_s = vocabulary.frames_per_s * vocabulary.packing.num_groups
    result = {
        "split": job.split,
        "num_blocks": count,
        "num_labels": num_labels,
        "bits_per_token": nats / num_labels / math.log(2),
        "bits_per_s": nats / num_labels / math.log(2) * tokens_per_s,
        "shuffled_bits_per_s": shuffled / num_shuffled / math.log(2) * tokens_per_s,
        **bounds,
    }
    if vocabulary.with_text:
        text, num_text = held_out_nats(loss, source, count, job.batch_size, device, kind="text")
        result |= {"num_text_labels": num_text, "bits_per_text_id": text / num_text / math.log(2)}
    result = {name: round(value, 4) if isinstance(value, float) else value for name, value in result.items()}
    for name in ("payload", "digit_entropy", "context_entropy"):
        say(STAGE, f"{name.replace('_', ' '):<16} {result[f'{name}_bits_per_s']:>9.1f} bit/s")
    say(STAGE, f"{'shuffled':<16} {result['shuffled_bits_per_s']:>9.1f} bit/s")
    model = f"{result['bits_per_s']:>9.1f} bit/s, {result['bits_per_token']:.3f} bits per token"
    say(STAGE, f"{'language model':<16} {model}")
    if job.out is not None:
        outputs.claim(job.out, "report", **claim)
        Folder(job.out).publish_json(LM_FIGURES, result)
    return result


def _claim_of(job: LmEvalJob, weights_digest: str) -> dict[str, dict[str, Any]]:
    blocks = outputs.digest(outputs.read_claim(job.blocks, "packed"))
    config = {"split": job.split, "limit": job.limit, "seed": job.seed}
    return {"inputs": {"model": weights_digest, "blocks": blocks}, "config": config}


def held_out_nats(
    loss: LmLoss,
    source: BlockSource,
    count: int,
    batch_size: int,
    device: torch.device,
    *,
    kind: Kind = "all",
    shuffle: bool = False,
    say_progress: bool = False,
) -> tuple[float, int]:
    """The negative log-likelihood in nats, summed over the first ``count`` blocks, and the number of labels in them.

    Args:
        loss: the model with its loss.
        source: the blocks.
        count: how many of them to measure.
        batch_size: how many blocks go through the model at once.
        device: where the model is.
        kind: which labels count: all of them, only tokens of speech, or only what is no token.
        shuffle: permute the tokens first, as :func:`shuffled_batch` does.
        say_progress: whether to report progress.
    """
    vocabulary = loss.vocabulary
    was_training = loss.training
    loss.eval()
    total, num_labels = 0.0, 0
    progress = Progress(STAGE, count, "blocks") if say_progress else None
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for first in range(0, count, batch_size):
            size = min(batch_size, count - first)
            batch = source.batch(first, size, device)
            batch = shuffled_batch(batch, vocabulary, rng) if shuffle else batch
            if kind != "all":
                counts = vocabulary.is_token(batch["labels"]) == (kind == "speech")
                batch |= {"labels": torch.where(counts, batch["labels"], IGNORED)}
            nats, labels = loss(batch)
            total, num_labels = total + float(nats), num_labels + int(labels)
            if progress:
                progress.add(size)
    loss.train(was_training)
    if not num_labels:
        raise InputError("no label in the blocks", value=count)
    return total, num_labels


def shuffled_batch(batch: Batch, vocabulary: Vocabulary, rng: np.random.Generator) -> Batch:
    """The blocks with the tokens of each place permuted: each is as frequent as before, all else is lost."""
    ids, place, labels = (batch[name].clone() for name in ("input_ids", "place", "labels"))
    groups, is_token = vocabulary.packing.num_groups, vocabulary.is_token(ids)
    own_place = torch.where(is_token, (place - 1) % groups, -1)
    for number in range(groups):
        at = torch.nonzero(own_place == number)
        order = torch.from_numpy(rng.permutation(len(at))).to(ids.device)
        ids[at[:, 0], at[:, 1]] = ids[at[order, 0], at[order, 1]]
    follows = vocabulary.is_token(labels[:, :-1])
    labels[:, :-1] = torch.where(follows, ids[:, 1:], labels[:, :-1])
    return batch | {"input_ids": ids, "labels": labels}


def entropies(runs: list[np.ndarray], vocabulary: Vocabulary) -> dict[str, float]:
    """Payload, digit entropy and context entropy of runs of frames [F, num_groups], in bits per second of speech.

    Raises:
        InputError: there is not one frame.
    """
    if not runs:
        raise InputError("no whole frame in the blocks", value=0, expected="1 or more")
    packing, rate = vocabulary.packing, vocabulary.frames_per_s
    digits = [packing.unpack(run) for run in runs]
    joined = np.concatenate(digits)
    counts = np.stack([np.bincount(dim, minlength=packing.levels) for dim in joined.T])
    return {
        "payload_bits_per_s": rate * packing.num_dims * math.log2(packing.levels),
        "digit_entropy_bits_per_s": rate * float(entropy_bits(torch.from_numpy(counts)).sum()),
        "context_entropy_bits_per_s": rate * context_bits(digits, packing.levels) / len(joined),
        "num_frames": len(joined),
    }


def _require_same(model: Vocabulary, blocks: Vocabulary) -> None:
    """Refuse blocks whose ids mean something else than those of the model. Raises ConflictError."""
    names = ("encoder_digest", "num_dims", "levels", "group_size", "digit_order", "id_offset", "interleave")
    for name in names:
        found, expected = blocks.metadata.get(name), model.metadata.get(name)
        if found != expected:
            if name == "encoder_digest":
                found, expected = str(found)[:16], str(expected)[:16]
            what = f"blocks of other ids than the model's, {name.replace('_', ' ')}"
            raise ConflictError(what, value=found, expected=str(expected), fix="pack an archive of that tokenizer")
