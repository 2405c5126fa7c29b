"""Behaviour of tokens: what disturbs them, what repairs them, and a certificate that a cheat does not get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syllabary.workers.evaluation.baselines import Speech
from syllabary.workers.evaluation.behaviour import (
    SHIFTS_MS,
    Prober,
    agreement_of,
    certificate,
    disturbed,
    repaired,
    resilience_of,
    seam_check,
    substituted,
)
from syllabary.workers.evaluation.scoring import RATE, Original
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.conftest import voiced
from tests.helpers.small_models import small_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer("waveform", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def speeches() -> list[Speech]:
    rng = np.random.default_rng(0)
    return [Speech.of(f"u{n}", voiced(rng, 1.1 + 0.3 * n, 110 + 20 * n), RATE) for n in range(3)]


def test_disturbances_are_what_they_say(speeches: list[Speech]) -> None:
    speech, kinds = speeches[0], {}
    for kind, value, _, samples in disturbed(speech):
        kinds.setdefault(kind, []).append(value)
        if kind == "shift":
            assert np.array_equal(samples, speech.samples[int(value * 16) :])
        if kind == "noise":
            noise = samples - speech.samples
            snr = 10 * np.log10(np.square(speech.samples).mean() / np.square(noise).mean())
            assert snr == pytest.approx(value, abs=0.3)
        if kind == "gain":
            assert np.abs(samples).max() == pytest.approx(np.abs(speech.samples).max() * 10 ** (value / 20), rel=1e-3)
    assert kinds["shift"] == list(SHIFTS_MS) and {"gain", "noise", "band_limit"} < set(kinds)


def test_probing_adds_up(tokenizer: Tokenizer, speeches: list[Speech]) -> None:
    probes = [Prober(tokenizer)(speech, Original(speech.samples)) for speech in speeches[:1]]
    rows = {(a.disturbance, a.value): a for a in agreement_of(probes)}
    assert (rows["shift", 0].tokens, rows["shift", 0].digits) == (1, 1), "nothing disturbed, nothing changed"
    assert min(a.digits for a in rows.values()) < 1, "something disturbed, something changed"
    assert {a.num_utterances for a in rows.values()} == {1}
    assert all(a.tokens <= a.digits for a in rows.values()), "a token is right only when all its digits are"
    found = {(r.token_error_rate, r.repair, r.metric): r.mean for r in resilience_of(probes)}
    assert found[0.0, False, "mel_distance"] == found[0.0, True, "mel_distance"]
    assert found[0.5, False, "mel_distance"] != found[0.0, False, "mel_distance"]


def test_substitution_hits_exactly_what_is_marked_and_stays_valid(tokenizer: Tokenizer) -> None:
    packing, rng = tokenizer.packing, np.random.default_rng(0)
    tokens = packing.pack(rng.integers(0, 4, (200, packing.num_dims)))
    wrong = rng.random(tokens.shape) < 0.3
    damaged = substituted(tokens, wrong, packing.position_sizes, rng)
    assert np.array_equal(damaged != tokens, wrong)
    packing.require_valid(damaged)


def test_repair_interpolates_between_good_frames(tokenizer: Tokenizer) -> None:
    packing = tokenizer.packing
    ramp = np.repeat(np.array([[0], [1], [2], [3]]), packing.num_dims, axis=1)
    tokens = packing.pack(ramp)
    wrong = np.zeros(tokens.shape, bool)
    wrong[1:3, 0] = True
    damaged = tokens.copy()
    damaged[1:3, 0] = 0
    assert np.array_equal(repaired(damaged, wrong, tokenizer), tokens), "a straight line comes back"
    wrong[:, 1] = True
    assert set(packing.unpack(repaired(damaged, wrong, tokenizer))[:, 7]) == {2}, "no good frame: the middle level"


def test_the_certificate_counts_no_mismatch(tokenizer: Tokenizer, speeches: list[Speech]) -> None:
    checks = {check.name: check for check in certificate(tokenizer, speeches)}
    assert set(checks) == {
        "alone, again", "two threads", "batched", "reversed batch", "padded", "decoded in a batch",
    }  # fmt: skip
    assert all(check.num_compared > 100 and check.num_mismatches == 0 for check in checks.values())


class Sociable(Tokenizer):
    """A tokenizer whose tokens depend on its neighbours: every other codec's fault."""

    def encode(self, wav: Any, sample_rate: int) -> Any:
        if isinstance(wav, list):
            first = wav[0][::-1]
            return [super(Sociable, self).encode(w + np.resize(first, len(w)), sample_rate) for w in wav]
        return super().encode(wav, sample_rate)


def test_a_tokenizer_that_minds_its_company_gets_no_certificate(tmp_path: Path, speeches: list[Speech]) -> None:
    small_tokenizer("waveform", tmp_path)
    checks = {check.name: check.num_mismatches for check in certificate(Sociable.load(str(tmp_path)), speeches)}
    assert checks["batched"] > 0 and checks["padded"] > 0
    assert checks["alone, again"] == checks["two threads"] == 0


def test_long_speech_is_checked_for_seams_and_short_speech_has_none(
    tokenizer: Tokenizer, speeches: list[Speech]
) -> None:
    found = seam_check(tokenizer, speeches)
    assert found is not None and found.num_seams == 2 and found.num_mismatches == 0
    assert 0 < found.flux_ratio <= found.worst_flux_ratio
    assert seam_check(tokenizer, speeches[:1]) is None
