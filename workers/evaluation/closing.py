"""The end of an evaluation: certificate, sounds, cost, tables, the report card and its page, from the results."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from syllabary.shards import dataset, outputs
from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder
from syllabary.workers.archive.encode_shard import archive_format
from syllabary.workers.control.log import say
from syllabary.workers.evaluation import behaviour
from syllabary.workers.evaluation.baselines import Codec, Speech
from syllabary.workers.evaluation.cost import measure_cost
from syllabary.workers.evaluation.evaluation import Evaluation
from syllabary.workers.evaluation.samples import chosen_samples, write_samples
from syllabary.workers.evaluation.tables import (
    absent_metrics,
    differences,
    failures_of,
    ledger_rows,
    ledger_table,
    scores_table,
    summaries,
    worst_cases,
)
from syllabary.workers.evaluation.token_rate import GivenPlace, archive_part, given_place, rate_card
from syllabary.workers.evaluation.utterance import OURS, Ours, other_codecs, read_speech
from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.recipes.recipe import WatchConfig
from syllabary.workers.report.card import (
    COST,
    LEDGER,
    PAGE,
    SCORES,
    TOKENS,
    Behaviour,
    Bitrates,
    CertificateCheck,
    Corpus,
    Cost,
    Provenance,
    Rate,
    ReportCard,
    SeamCheck,
    System,
    publish_card,
)
from syllabary.workers.report.catalogue import METRICS
from syllabary.workers.report.page import publish_page

CERTIFICATE = "certificate.json"
_PACKAGES = (
    "av", "distillmos", "moonshine-voice", "numpy", "pesq", "praat-parselmouth", "pycodec2", "pystoi", "Resemblyzer",
    "soxr", "torch", "transformers",
)  # fmt: skip
_CERTIFIED, _PLACED, _READERS = 6, 64, 8
LITTLE_SPEECH = WatchConfig().min_between_clips
_HEADLINE = ("pesq_wb", "estoi", "distill_mos", "speaker_similarity", "wer", "wer_self")


def write_report(evaluation: Evaluation) -> dict[str, Any]:
    """Publish everything below OUT that follows from the utterances' results; returns the headline figures.

    Raises:
        FormatError: the tokenizer gave nothing on any utterance.
    """
    job, items, out = evaluation.job, evaluation.selection.items, Folder(evaluation.job.out)
    results, encoded = _results(evaluation)
    codecs: tuple[Codec, ...] = (
        Ours(evaluation.tokenizer, evaluation.title),
        *other_codecs(job, evaluation.tokenizer),
    )
    metrics = [metric for metric in METRICS if metric.name in evaluation.metrics]
    rows = ledger_rows(items, results, [codec.system for codec in codecs], metrics)
    out.publish(SCORES, dataset.parquet_bytes(scores_table(rows)))
    out.publish(LEDGER, dataset.parquet_bytes(ledger_table(rows)))
    checks = _checks(evaluation, encoded)
    rate = _rate(evaluation, results, encoded, checks)
    systems = tuple(_with_bitrates(codec.system, rate, results, evaluation) for codec in codecs)
    worst = worst_cases(rows, metrics)
    samples = write_samples(evaluation, codecs, chosen_samples(items, results, worst, job.num_samples), results)
    played = {sample.utterance_id: sample.number for sample in samples}
    absent = absent_metrics(rows, metrics)
    card = ReportCard(
        title=evaluation.title,
        corpus=_corpus(evaluation),
        systems=systems,
        metrics=tuple(m for m in metrics if m.name not in {a.metric for a in absent}),
        absent=absent,
        scores=summaries(rows, job.seed),
        differences=differences(rows, systems, metrics, job.seed),
        worst=tuple(case.model_copy(update={"sample": played.get(case.utterance_id)}) for case in worst),
        failures=tuple(f for f in failures_of(rows) if f.metric not in {a.metric for a in absent}),
        rate=rate,
        behaviour=_behaviour(results, checks),
        cost=_cost(evaluation, encoded),
        samples=samples,
        provenance=_provenance(evaluation),
        notes=(*evaluation.selection.notes, *_notes(evaluation, rate)),
    )
    publish_card(job.out, card)
    page = publish_page(job.out)
    say("evaluate", f"wrote {page}")
    return _headline(card)


def _results(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[int]]:
    """The result of every utterance, and the numbers of those that have tokens."""
    with ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(evaluation.result, range(len(evaluation.selection.items))))
    encoded = [number for number, result in enumerate(results) if result["tokens"]]
    if not encoded:
        reason = results[0]["problems"][0]["reason"] if results[0]["problems"] else "no tokens"
        raise FormatError("the tokenizer gave nothing on any utterance", value=reason)
    return results, encoded


def _speeches(evaluation: Evaluation, numbers: Sequence[int]) -> list[Speech]:
    return [read_speech(evaluation.job.shards, evaluation.selection.items[number].row) for number in numbers]


def _checks(evaluation: Evaluation, encoded: Sequence[int]) -> dict[str, Any]:
    """Certificate, seams, the rank of the latents and what digits hold beside their place: made once."""
    out = Folder(evaluation.job.out)
    if out.exists(CERTIFICATE):
        return out.read_json(CERTIFICATE)
    tokenizer = evaluation.tokenizer
    say("evaluate", "the same utterances alone, in company, padded and with two threads")
    speeches = _speeches(evaluation, encoded[:_CERTIFIED])
    seams = behaviour.seam_check(tokenizer, _long_enough(evaluation, encoded))
    checks = {
        "certificate": [check.model_dump(mode="json") for check in behaviour.certificate(tokenizer, speeches)],
        "seams": seams.model_dump(mode="json") if seams else None,
        "effective_rank": _effective_rank(evaluation, speeches),
        "given_place": _given_place(evaluation, encoded)._asdict(),
    }
    out.publish_json(CERTIFICATE, checks)
    return checks


def _long_enough(evaluation: Evaluation, encoded: Sequence[int]) -> list[Speech]:
    """As many utterances as make three windows."""
    framing, total_s, numbers = evaluation.tokenizer.framing, 0.0, []
    for number in encoded:
        if total_s > 3 * framing.window_samples / framing.sample_rate:
            break
        numbers.append(number)
        total_s += evaluation.selection.items[number].duration_s
    return _speeches(evaluation, numbers)


def _effective_rank(evaluation: Evaluation, speeches: Sequence[Speech]) -> float:
    import torch

    from syllabary.model.measures.usage import effective_rank

    latents = [evaluation.tokenizer.latents(speech.stored, speech.stored_rate) for speech in speeches]
    return effective_rank(torch.from_numpy(np.concatenate(latents, axis=1).T.copy()))


def _given_place(evaluation: Evaluation, encoded: Sequence[int]) -> GivenPlace:
    """What digits and latents hold once the place is known, of utterances cut to one length and encoded anew.

    In utterances of their own lengths an encoder that encodes the distance to the end would pass for one that hears.
    """
    from syllabary.model.measures.place import common_length

    tokenizer, numbers = evaluation.tokenizer, list(encoded[:_PLACED])
    framing, levels = tokenizer.framing, tokenizer.config.fsq.levels
    frame_s = 1 / float(framing.frame_rate)
    whole = [max(1, int(evaluation.selection.items[n].duration_s / frame_s + 1e-6)) for n in numbers]
    length = min(common_length(whole), framing.window_frames)
    long_enough = [number for number, frames in zip(numbers, whole, strict=True) if frames >= length]
    say(
        "evaluate", f"{len(long_enough)} utterances cut to {length * frame_s:g} s: what the tokens tell beside the time"
    )
    packing = archive_format(tokenizer).packing
    cut = [(s.stored[: round(length * frame_s * s.stored_rate)], s.stored_rate)
           for s in _speeches(evaluation, long_enough)]  # fmt: skip
    digits = [packing.unpack(tokenizer.encode(*one).tokens[:length]) for one in cut]
    return given_place(digits, [tokenizer.latents(*one)[:, :length].T for one in cut], levels)


def _rate(
    evaluation: Evaluation, results: Sequence[Mapping[str, Any]], encoded: list[int], checks: Mapping[str, Any]
) -> Rate:
    tokenizer, selection = evaluation.tokenizer, evaluation.selection
    tokens = [np.asarray(results[n]["tokens"], np.uint16) for n in encoded]
    salience = [np.asarray(results[n]["salience"], np.uint8) for n in encoded]
    form = archive_format(tokenizer)
    part = archive_part(selection.table(encoded), tokens, salience, form)
    Folder(evaluation.job.out).publish(TOKENS, part)
    duration_s = sum(selection.items[n].duration_s for n in encoded)
    placed = GivenPlace(**checks["given_place"])
    rates, rank = rates_of(tokenizer.config), checks["effective_rank"]
    return rate_card(tokens, part, duration_s, form, rates, rank, placed, evaluation.language_model)


def _with_bitrates(system: System, rate: Rate, results: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> System:
    if system.name == OURS:
        rates = Bitrates(payload=rate.payload, nominal=rate.nominal, entropy=rate.context_entropy, stored=rate.stored)
        return system.model_copy(update={"bitrates": rates})
    bits = [(r["num_bits"][system.name], i.duration_s) for r, i in zip(results, evaluation.selection.items, strict=True)
            if system.name in r["num_bits"]]  # fmt: skip
    if not bits:
        return system
    stored = sum(b for b, _ in bits) / sum(s for _, s in bits)
    return system.model_copy(update={"bitrates": system.bitrates.model_copy(update={"stored": stored})})


def _behaviour(results: Sequence[Mapping[str, Any]], checks: Mapping[str, Any]) -> Behaviour:
    probes = [result["probe"] for result in results if result["probe"]]
    return Behaviour(
        agreement=behaviour.agreement_of(probes),
        resilience=behaviour.resilience_of(probes),
        repair=behaviour.REPAIR,
        certificate=tuple(CertificateCheck.model_validate(check) for check in checks["certificate"]),
        seams=SeamCheck.model_validate(checks["seams"]) if checks["seams"] else None,
    )


def _cost(evaluation: Evaluation, encoded: Sequence[int]) -> Cost | None:
    """Measured once and kept: a repeated run reports the same figures."""
    if not evaluation.job.measure_cost:
        return None
    out = Folder(evaluation.job.out)
    if out.exists(COST):
        return Cost.model_validate_json(json.dumps(out.read_json(COST)))
    say("evaluate", "time and memory of encoding and decoding")
    clip = _speeches(evaluation, encoded[:1])[0].samples
    cost = measure_cost(evaluation.job.tokenizer, clip, evaluation.cpu_s, evaluation.scored_s)
    out.publish_json(COST, cost.model_dump(mode="json"))
    return cost


def _corpus(evaluation: Evaluation) -> Corpus:
    items = evaluation.selection.items
    return Corpus(
        shards=evaluation.job.shards,
        splits=evaluation.job.splits,
        num_utterances=len(items),
        num_held_out=evaluation.selection.num_held_out,
        num_speakers=len({item.row["speaker"] for item in items}),
        duration_s=sum(item.duration_s for item in items),
        num_transcripts=sum(item.transcript is not None for item in items),
    )


def _provenance(evaluation: Evaluation) -> Provenance:
    tokenizer = evaluation.tokenizer
    return Provenance(
        tokenizer=evaluation.job.tokenizer,
        encoder_digest=tokenizer.encoder_digest,
        decoder_digest=tokenizer.decoder_digest,
        shards_digest=evaluation.selection.digest,
        options=outputs.read_claim(evaluation.job.out)["config"],
        model=tokenizer.config.model_dump(mode="json"),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _notes(evaluation: Evaluation, rate: Rate) -> list[str]:
    notes = []
    if not any(item.transcript for item in evaluation.selection.items) and "wer" in evaluation.metrics:
        notes.append("No transcripts: word errors are counted only against what the recogniser hears in the original.")
    largest = max(position.num_ids for position in rate.positions)
    if rate.num_frames < 10 * largest:
        notes.append(
            f"{rate.num_frames:,} frames for up to {largest:,} ids: the token entropy is far too low, as every entropy "
            "of few draws; the digit entropy and the code length with context are to be trusted."
        )
    if rate.between_clips is None:
        notes.append(
            "Too few utterances to compare at one place, or no digit moves: whether the tokens carry speech or only "
            "tell the place of a frame was not measured. Evaluate more utterances."
        )
    elif rate.between_clips < LITTLE_SPEECH:
        notes.append(
            f"{100 * (1 - rate.between_clips):.0f} % of the digits' variance tells the place of a frame in its clip: "
            "the tokens tell the time, hardly the speech. Train the encoder at a lower learning rate."
        )
    if rate.language_model is not None:
        notes.append(
            "The language model's figure bounds from above what the tokens hold: it falls with more training, and "
            "means nothing for speakers whom the model was trained on."
        )
    if evaluation.tokenizer.sample_rate > 16_000:
        notes.append("Every metric listens at 16 kHz: what the tokenizer keeps above 8 kHz is not judged.")
    return notes


def _headline(card: ReportCard) -> dict[str, Any]:
    ours = {name: score.mean for name in _HEADLINE if (score := card.score(OURS, name))}
    return {
        "report": PAGE,
        "num_utterances": card.corpus.num_utterances,
        "num_failures": len(card.failures),
        "payload_bits_per_s": card.rate.payload,
        "context_entropy_bits_per_s": card.rate.context_entropy,
        "language_model_bits_per_s": card.rate.language_model,
        "bits_per_s_given_place": card.rate.digit_entropy_given_place,
        "between_clips": card.rate.between_clips,
        "num_mismatches": sum(c.num_mismatches for c in card.behaviour.certificate) if card.behaviour else 0,
        **ours,
    }
