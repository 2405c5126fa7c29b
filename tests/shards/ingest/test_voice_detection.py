"""From frames that a detector takes for speech to stretches of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import webrtcvad

from syllabary.shards.ingest.vad import detect_speech
from tests.helpers.ingest_testing import RATE, write_audio

FRAME = 480  # samples of 30 ms at 16 kHz


class Loud:
    """A detector that takes whatever is not silent for speech."""

    def __init__(self, aggressiveness: int) -> None:
        pass

    def is_speech(self, frame: bytes, rate: int) -> bool:
        return any(frame)


def test_each_stretch_of_speech_is_found_with_a_margin_and_a_click_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames 20 to 39, 60 to 69 and the last ten of 120, each with three more on either side; frame 50 is alone."""
    monkeypatch.setattr(webrtcvad, "Vad", Loud)
    wave = np.zeros(120 * FRAME, np.float32)
    for first, last in ((20, 40), (50, 51), (60, 70), (110, 120)):
        wave[first * FRAME : last * FRAME] = 0.5
    write_audio(tmp_path / "a.wav", wave, RATE)
    found = [(round(start / 0.03, 6), round(end / 0.03, 6)) for start, end in detect_speech(tmp_path / "a.wav", 2)]
    assert found == [(17, 43), (57, 73), (107, 120)]


def test_speech_that_begins_with_the_recording_is_judged_from_its_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five frames are just more than half of the nine around each; they keep three more behind."""
    monkeypatch.setattr(webrtcvad, "Vad", Loud)
    for num_frames, expected in ((5, [(0, 0.24)]), (4, [])):
        wave = np.zeros(40 * FRAME, np.float32)
        wave[: num_frames * FRAME] = 0.5
        write_audio(tmp_path / "a.wav", wave, RATE)
        assert detect_speech(tmp_path / "a.wav", 2) == expected


def test_silence_and_no_whole_frame_have_no_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtcvad, "Vad", Loud)
    for name, wave in (("silent.wav", np.zeros(10 * FRAME)), ("short.wav", np.full(FRAME - 1, 0.5))):
        write_audio(tmp_path / name, wave.astype(np.float32), RATE)
        assert detect_speech(tmp_path / name, 2) == []
