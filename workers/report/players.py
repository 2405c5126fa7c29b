"""The players of the report page: for each sample, every system's sound, spectrogram and scores, in bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from syllabary.shards import audio
from syllabary.shards.audio import Samples
from syllabary.workers.report import media as report_audio
from syllabary.workers.report.card import ReportCard, Sample, System
from syllabary.workers.report.plots import style_of
from syllabary.workers.report.words import key_metrics, ordered, with_unit

MAX_CLIP_S = 10.0
MAX_SOUND_MB = 12.0
TYPICAL = "typical"
NUM_SCORES = 2
SHORT_LABELS = {"wer_self": "self-WER"}  # beside a sound there is little room
ReadSound = Callable[[str], bytes]


@dataclass(frozen=True)
class Take:
    """One system's version of an utterance."""

    system: System
    style: str
    duration_s: float
    sound_uri: str
    picture_uri: str
    salience: str
    scores: str


@dataclass(frozen=True)
class Player:
    """One utterance with all its takes; ``clip_s`` is what is heard of it, ``is_cut`` whether that is not all."""

    sample: Sample
    takes: tuple[Take, ...]
    clip_s: float
    is_cut: bool


def build_players(card: ReportCard, read_sound: ReadSound, max_sound_mb: float = MAX_SOUND_MB) -> list[Player]:
    """The players that fit into ``max_sound_mb`` of FLAC (10^6 bytes), in the card's order, cut to :data:`MAX_CLIP_S`.

    Typical utterances and worst ones are admitted in turn, so that neither crowds the other out. The first always
    fits. Floors are left out: noise is the dearest sound to store and the dullest to hear.

    Raises:
        StorageError: a sound that the card names is not there.
        FormatError: it is not audio.
    """
    admitted: dict[int, Player] = {}
    floors = {system.name for system in card.systems if system.kind == "floor"}
    spent = 0
    for sample in _in_turn(card.samples):
        clips = {sound.system: _clip(read_sound(sound.path)) for sound in sample.sounds if sound.system not in floors}
        size = sum(len(data) for data, _, _ in clips.values())
        if clips and (spent + size <= max_sound_mb * 1e6 or not admitted):
            spent += size
            admitted[sample.number] = _player(card, sample, clips)
    return [admitted[sample.number] for sample in card.samples if sample.number in admitted]


def _in_turn(samples: Sequence[Sample]) -> Iterable[Sample]:
    groups: dict[bool, int] = {True: 0, False: 0}
    ranked = []
    for sample in samples:
        groups[sample.reason == TYPICAL] += 1
        ranked.append((groups[sample.reason == TYPICAL], sample))
    return [sample for _, sample in sorted(ranked, key=lambda pair: pair[0])]


def _clip(data: bytes) -> tuple[bytes, Samples, int]:
    """The file as it is when it is short, else its first seconds, with the samples and the rate."""
    samples, rate = audio.decode(data)
    longest = int(MAX_CLIP_S * rate)
    if len(samples) <= longest:
        return data, samples, rate
    return audio.encode_flac(samples[:longest], rate), samples[:longest], rate


def _player(card: ReportCard, sample: Sample, clips: dict[str, tuple[bytes, Samples, int]]) -> Player:
    systems = [system for system in _original_first(card) if system.name in clips]
    _, samples, rate = clips[systems[0].name]
    loudest_db, clip_s = report_audio.level_of(samples, rate), len(samples) / rate
    salience = report_audio.salience_points(sample.salience, sample.frame_s, clip_s)
    styles, takes = style_of(card), []
    for place, system in enumerate(systems):
        data, samples, rate = clips[system.name]
        takes.append(
            Take(
                system=system,
                style=styles[system.name][0],
                duration_s=len(samples) / rate,
                sound_uri=report_audio.data_uri("audio/flac", data),
                picture_uri=report_audio.spectrogram_uri(samples, rate, loudest_db),
                salience=salience if place == 0 or system.kind == "ours" else "",
                scores=_scores(card, sample, system),
            )
        )
    return Player(sample, tuple(takes), clip_s, is_cut=sample.duration_s > clip_s + 0.02)


def _original_first(card: ReportCard) -> list[System]:
    """The original, ours, the baselines, then the rest: what the ear compares stands side by side."""
    return sorted(ordered(card), key=lambda system: system.name != "original")


def _scores(card: ReportCard, sample: Sample, system: System) -> str:
    """The values of the first key metrics that this take has."""
    scores = sample.scores.get(system.name, {})
    parts = [
        f"{SHORT_LABELS.get(m.name, m.label)} {with_unit(m, scores[m.name])}"
        for m in key_metrics(card)
        if m.name in scores
    ]
    return " · ".join(parts[:NUM_SCORES])
