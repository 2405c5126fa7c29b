"""``summary.html`` of a pipeline run: its figures, and held-out utterances to listen to, in one file without a network.

The style is the report card's. Equal runs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syllabary.shards import audio
from syllabary.workers.report import media
from syllabary.workers.report.page import inlined, template


@dataclass(frozen=True)
class Take:
    """One version of an utterance, ready to play."""

    label: str
    duration_s: float
    sound_uri: str
    picture_uri: str


@dataclass(frozen=True)
class Heard:
    """One utterance with its takes, the original first."""

    utterance_id: str
    speaker: str
    takes: tuple[Take, ...]


def heard(utterance_id: str, speaker: str, sounds: Mapping[str, bytes]) -> Heard:
    """An utterance to listen to.

    Args:
        utterance_id, speaker: whose.
        sounds: files by what they are, the original first: its level is the scale of all spectrograms.
    """
    takes, loudest_db = [], None
    for label, data in sounds.items():
        samples, rate = audio.decode(data)
        loudest_db = media.level_of(samples, rate) if loudest_db is None else loudest_db
        picture = media.spectrogram_uri(samples, rate, loudest_db)
        takes.append(Take(label, len(samples) / rate, media.data_uri("audio/flac", data), picture))
    return Heard(utterance_id, speaker, tuple(takes))


def render_summary(title: str, figures: Mapping[str, str], utterances: Sequence[Heard]) -> bytes:
    """The page as UTF-8 HTML."""
    page = template("summary.html").render(
        title=title, figures=list(figures.items()), heard=utterances, **inlined("page.css", "style")
    )
    return page.encode()
