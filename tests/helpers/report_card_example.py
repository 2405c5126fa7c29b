"""A complete small report on disk, without a model: what the page and ``compare`` are tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from syllabary.shards import audio, dataset, store
from syllabary.workers.report.card import (
    LEDGER,
    SAMPLES,
    SCORES,
    AbsentMetric,
    Agreement,
    Behaviour,
    Bitrates,
    CertificateCheck,
    Corpus,
    Cost,
    CostPoint,
    Difference,
    Failure,
    Machine,
    Metric,
    PositionUse,
    Provenance,
    Rate,
    ReportCard,
    Resilience,
    Sample,
    Score,
    ScoringCost,
    SeamCheck,
    Sound,
    System,
    WorstCase,
    publish_card,
)

RATE = 16_000
SYSTEMS = (
    System(
        name="ours", label="example", kind="ours", description="The tokenizer.",
        bitrates=Bitrates(payload=640, nominal=665, entropy=431.5, stored=512.3),
    ),
    System(
        name="codec2_700c", label="Codec2 700C", kind="baseline", description="Parametric vocoder at 8 kHz.",
        bitrates=Bitrates(payload=700, nominal=700, stored=700),
    ),
    System(
        name="opus_6k", label="Opus 6 kbit/s", kind="baseline", description="libopus, voip, 6 kbit/s.",
        bitrates=Bitrates(nominal=6000, stored=6411.8),
    ),
    System(name="original", label="Original", kind="ceiling", description="The speech itself."),
    System(name="lowpass_4k", label="Original to 4 kHz", kind="ceiling", description="Low-passed to 4 kHz."),
    System(name="noise", label="White noise", kind="floor", description="Noise of the same level."),
)  # fmt: skip
METRICS = (
    Metric(name="pesq_wb", label="PESQ-WB", unit="MOS", direction="higher", description="P.862.2.", low=1, high=4.64),
    Metric(name="estoi", label="ESTOI", unit="", direction="higher", description="Intelligibility.", low=0, high=1),
    Metric(name="mel_distance", label="Mel distance", unit="dB", direction="lower", description="Log-mel.", low=0),
)
_LEVEL = {"ours": 0.35, "codec2_700c": 0.5, "opus_6k": 0.75, "original": 1.0, "lowpass_4k": 0.95, "noise": 0.02}


def value_of(system: str, metric: str, number: int, shift: float = 0.0) -> float:
    """A made-up score that orders the systems as one would expect."""
    level = min(1.0, _LEVEL[system] + 0.02 * (number % 3 - 1) + (shift if system == "ours" else 0.0))
    return {"pesq_wb": 1 + 3.64 * level, "estoi": level, "mel_distance": 20 * (1 - level)}[metric]


def write_example_report(
    out: Path, *, num_utterances: int = 8, num_samples: int = 3, shift: float = 0.0, title: str = "example"
) -> ReportCard:
    """A report below ``out`` with playable sounds, spectra that differ by system, and every block filled.

    ``shift`` is added to every quality of ours: 0.1 makes a better tokenizer, -0.1 a worse one.
    """
    rows = [
        {"utterance_id": f"10{n % 4}/book/chapter-{n:09}", "speaker": f"10{n % 4}", "split": ("test", "valid")[n % 2],
         "system": s.name, "metric": m.name, "value": value_of(s.name, m.name, n, shift), "weight": 1.0}
        for n in range(num_utterances) for s in SYSTEMS for m in METRICS
    ]  # fmt: skip
    store.publish_bytes(store.join(str(out), SCORES), dataset.parquet_bytes(pa.Table.from_pylist(rows)))
    ledger = [row | {"status": "scored", "reason": None} for row in rows]
    store.publish_bytes(store.join(str(out), LEDGER), dataset.parquet_bytes(pa.Table.from_pylist(ledger)))
    card = ReportCard(
        title=title,
        corpus=Corpus(
            shards="shards", splits=("valid", "test"), num_utterances=num_utterances, num_held_out=num_utterances,
            num_speakers=4, duration_s=2.0 * num_utterances, num_transcripts=num_utterances,
        ),
        systems=SYSTEMS,
        metrics=METRICS,
        absent=(AbsentMetric(metric="wer", reason="no utterance has a transcript; give --transcripts"),),
        scores=tuple(_score(s.name, m.name, num_utterances, shift) for s in SYSTEMS for m in METRICS),
        differences=tuple(
            _difference(s.name, m, num_utterances, shift) for s in SYSTEMS if s.kind == "baseline" for m in METRICS
        ),
        worst=tuple(
            WorstCase(
                metric=m.name, rank=rank, utterance_id=f"10{n % 4}/book/chapter-{n:09}", speaker=f"10{n % 4}",
                value=value_of("ours", m.name, n, shift), transcript="FOUR SCORE AND SEVEN",
                sample=n if n < num_samples else None,
            )
            for m in METRICS for rank, n in enumerate((0, 3), start=1)
        ),
        failures=(
            Failure(
                utterance_id="100/book/chapter-000000000", system="noise", metric="f0_rmse", reason="no voiced frame"
            ),
        ),
        rate=_rate(),
        behaviour=_behaviour(),
        cost=_cost(),
        samples=tuple(_sample(out, n, shift) for n in range(num_samples)),
        provenance=Provenance(
            tokenizer="tokenizer", encoder_digest="e" * 64, decoder_digest="d" * 64, shards_digest="s" * 64,
            options={"limit": None, "seed": 0}, model={"encoder": {"sample_rate": RATE}}, packages={"pesq": "0.0.4"},
        ),
        notes=("Made up: an example, not a measurement.",),
    )  # fmt: skip
    publish_card(str(out), card)
    return card


def _score(system: str, metric: str, num: int, shift: float) -> Score:
    mean = float(np.mean([value_of(system, metric, n, shift) for n in range(num)]))
    return Score(
        system=system, metric=metric, mean=mean, low=mean - 0.03, high=mean + 0.03, num_utterances=num, num_speakers=4
    )


def _difference(baseline: str, metric: Metric, num: int, shift: float) -> Difference:
    values = [value_of("ours", metric.name, n, shift) - value_of(baseline, metric.name, n) for n in range(num)]
    mean = float(np.mean(values))
    return Difference(
        system="ours", baseline=baseline, metric=metric.name, mean=mean, low=mean - 0.01, high=mean + 0.01,
        num_utterances=num, exceeds=abs(mean) > 0.01, better=(mean > 0) == (metric.direction == "higher"),
    )  # fmt: skip


def _rate() -> Rate:
    return Rate(
        payload=640, nominal=665, as_uint16=760, token_entropy=300.2, digit_entropy=455.1, context_entropy=431.5,
        stored=512.3, stored_all=560.9, num_frames=40, level_share=(0.1, 0.4, 0.35, 0.15), level_perplexity=2.4,
        dead_dims=7, num_dims=128, effective_rank=21.4, digit_entropy_given_place=402.7, between_clips=0.83,
        rank_given_place=17.6, language_model=388.6,
        positions=tuple(
            PositionUse(position=g, num_ids=16384 if g < 18 else 16, num_used=38 - g, entropy_bits=5.2 - 0.1 * g,
                        perplexity=2 ** (5.2 - 0.1 * g))
            for g in range(19)
        ),
    )  # fmt: skip


def _behaviour() -> Behaviour:
    steps = {"shift": ("ms", (0, 25, 100, 200, 399)), "gain": ("dB", (-20, -6, 6)), "noise": ("dB SNR", (0, 20, 40)),
             "band_limit": ("Hz", (4000,))}  # fmt: skip
    return Behaviour(
        agreement=tuple(
            Agreement(disturbance=kind, value=v, unit=unit, tokens=1.0 if v == 0 else 0.3,
                      digits=1.0 if v == 0 else 0.7, num_utterances=8)
            for kind, (unit, values) in steps.items() for v in values
        ),
        resilience=tuple(
            Resilience(token_error_rate=e, repair=r, metric="estoi", mean=0.35 - e * (1 - 0.5 * r), num_utterances=8)
            for e in (0.0, 0.01, 0.05, 0.2) for r in (False, True)
        ),
        repair="Wrong tokens are known; each is interpolated from the nearest good frames.",
        certificate=(
            CertificateCheck(name="batched", description="in a list of 8", num_compared=760, num_mismatches=0),
            CertificateCheck(name="two threads", description="with two threads", num_compared=760, num_mismatches=0),
        ),
        seams=SeamCheck(duration_s=45, num_seams=2, flux_ratio=1.1, worst_flux_ratio=1.3, num_mismatches=0),
    )  # fmt: skip


def _cost() -> Cost:
    machine = Machine(
        processor="Example CPU", num_cores=2, memory_gb=24, accelerator=None, system="Linux", torch="2.13.0"
    )
    points = tuple(
        CostPoint(direction=d, batch_size=b, num_threads=1, real_time_factor=0.01 * b, cpu_s_per_audio_s=0.01,
                  peak_memory_mb=400)
        for d in ("encode", "decode") for b in (1, 8)
    )  # fmt: skip
    scoring = (ScoringCost(name="pesq_wb", cpu_s_per_minute=1.2), ScoringCost(name="estoi", cpu_s_per_minute=0.4))
    return Cost(machine=machine, points=points, scoring=scoring, scored_s=16.0)


def _sample(out: Path, number: int, shift: float) -> Sample:
    duration_s = 1.5 + 0.4 * number
    sounds = []
    for place, system in enumerate(SYSTEMS):
        path = f"{SAMPLES}/{number:03}-{system.name}.flac"
        time = np.arange(int(duration_s * RATE)) / RATE
        wave = 0.2 * np.sin(2 * np.pi * (200 + 100 * number) * (1 + place) * time * (1 + 0.1 * time))
        store.publish_bytes(store.join(str(out), path), audio.encode_flac(wave.astype(np.float32), RATE))
        sounds.append(Sound(system=system.name, path=path, duration_s=len(time) / RATE, sample_rate=RATE))
    return Sample(
        number=number, utterance_id=f"10{number % 4}/book/chapter-{number:09}", speaker=f"10{number % 4}",
        transcript="FOUR SCORE AND SEVEN YEARS AGO" if number else None, duration_s=duration_s,
        reason="typical" if number else "pesq_wb", sounds=tuple(sounds),
        salience=tuple(round(0.5 + 0.4 * np.sin(k), 3) for k in range(int(np.ceil(duration_s * 2.5)))), frame_s=0.4,
        scores={s.name: {m.name: value_of(s.name, m.name, number, shift) for m in METRICS} for s in SYSTEMS},
    )  # fmt: skip
