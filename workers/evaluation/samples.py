"""The sounds of a report: typical utterances and the worst ones, as the original and through every system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from syllabary.shards import audio
from syllabary.shards.store import Folder
from syllabary.workers.evaluation.baselines import Codec
from syllabary.workers.evaluation.evaluation import Evaluation
from syllabary.workers.evaluation.scoring import RATE
from syllabary.workers.evaluation.utterance import OURS, Item, read_speech
from syllabary.workers.report.card import SAMPLES, Sample, Sound, WorstCase

_WORST_OF = ("estoi", "stoi", "wer", "wer_self", "pesq_wb", "mel_distance", "distill_mos", "speaker_similarity")
TYPICAL = "typical"


def chosen_samples(
    items: Sequence[Item], results: Sequence[Mapping[str, Any]], worst: Sequence[WorstCase], num_samples: int
) -> list[tuple[Item, str]]:
    """Choose utterances to listen to, and say why: half are the first in order, the rest the worst by a metric."""
    usable = {item.utterance_id: item for item, r in zip(items, results, strict=True) if OURS in r["scores"]}
    chosen = dict.fromkeys(list(usable)[: -(-num_samples // 2)], TYPICAL)
    ranked = sorted((w for w in worst if w.metric in _WORST_OF), key=lambda w: (w.rank, _WORST_OF.index(w.metric)))
    for case in ranked:
        if len(chosen) < num_samples and case.utterance_id in usable:
            chosen.setdefault(case.utterance_id, case.metric)
    return [(usable[name], reason) for name, reason in chosen.items()]


def write_samples(
    evaluation: Evaluation,
    codecs: Sequence[Codec],
    chosen: Sequence[tuple[Item, str]],
    results: Sequence[Mapping[str, Any]],
) -> tuple[Sample, ...]:
    """Publish the sounds that are not there yet; returns where they are."""
    framing = evaluation.tokenizer.framing
    samples = []
    for item, reason in chosen:
        result = results[item.number]
        samples.append(
            Sample(
                number=item.number,
                utterance_id=item.utterance_id,
                speaker=str(item.row["speaker"]),
                transcript=item.transcript,
                duration_s=item.duration_s,
                reason=reason,
                sounds=_sounds(evaluation, [c for c in codecs if c.system.name in result["scores"]], item),
                salience=tuple(round(value / 255, 4) for value in result["salience"] or ()),
                frame_s=framing.hop_length / framing.sample_rate,
                scores={name: {m: v[0] for m, v in by_metric.items()} for name, by_metric in result["scores"].items()},
            )
        )
    return tuple(samples)


def _sounds(evaluation: Evaluation, codecs: Sequence[Codec], item: Item) -> tuple[Sound, ...]:
    """The utterance through each of the codecs; those that failed on it when it was scored are not among them."""
    out, speech, sounds = Folder(evaluation.job.out), None, []
    for codec in codecs:
        name = codec.system.name
        path = f"{SAMPLES}/{item.number:06}-{name}.flac"
        if not out.exists(path):
            speech = speech or read_speech(evaluation.job.shards, item.row)
            out.publish(path, audio.encode_flac(np.nan_to_num(codec(speech).samples), RATE))
        length = audio.resampled_length(item.row["num_samples"], item.row["sample_rate"], RATE)
        sounds.append(Sound(system=name, path=path, duration_s=length / RATE, sample_rate=RATE))
    return tuple(sounds)
