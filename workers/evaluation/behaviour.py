"""Measure how tokens behave: with disturbed input, with lost tokens, and in the company of other utterances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from syllabary.shards import audio
from syllabary.workers.evaluation import scoring
from syllabary.workers.evaluation.baselines import Speech, low_passed
from syllabary.workers.evaluation.scoring import RATE, Original, Samples, Unscored, checked
from syllabary.workers.report.card import Agreement, CertificateCheck, Resilience, SeamCheck

if TYPE_CHECKING:
    from syllabary.workers.tokenizer.tokenizer import Encoded, Tokenizer

SHIFTS_MS = (0, 1, 5, 10, 25, 50, 100, 200, 300, 399)
GAINS_DB = (-20.0, -6.0, 6.0)
SNRS_DB = (40.0, 30.0, 20.0, 10.0, 0.0)
BANDWIDTH_HZ = 4_000  # what telephony's 8 kHz sampling leaves
TOKEN_ERROR_RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
REPAIR = (
    "Tokens are replaced at random by other valid ids of their position. With repair the receiver knows which tokens "
    "are wrong (an erasure, as a checksum or a lost packet tells): their digits are interpolated, rounded, between the "
    "nearest good frames of the same position; where a position has no good frame at all, its middle levels are taken."
)
_RESILIENCE_METRICS = {"estoi": scoring.estoi, "mel_distance": scoring.mel_distance}
Tokens = NDArray[np.uint16]


class Prober:
    """Disturbs one utterance in every way and says what became of its tokens, as plain figures to add up."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, speech: Speech, original: Original) -> dict[str, Any]:
        """``agreement`` rows [kind, value, unit, tokens equal, tokens, digits equal, digits], ``resilience`` rows
        [token error rate, repair, metric, value]."""
        tokens = self._encode(speech.samples)
        return {"agreement": self._agreement(speech, tokens), "resilience": self._resilience(speech, original, tokens)}

    def _encode(self, samples: Samples) -> Tokens:
        return self._tokenizer.encode(samples, RATE).tokens

    def _agreement(self, speech: Speech, tokens: Tokens) -> list[list[Any]]:
        rows = []
        for kind, value, unit, samples in disturbed(speech):
            encoded = self._encode(samples)
            num = min(len(encoded), len(tokens))  # a shift may cost the last frame
            digits = self._tokenizer.packing.unpack(tokens[:num]) == self._tokenizer.packing.unpack(encoded[:num])
            equal = tokens[:num] == encoded[:num]
            rows.append([kind, value, unit, int(equal.sum()), equal.size, int(digits.sum()), digits.size])
        return rows

    def _resilience(self, speech: Speech, original: Original, tokens: Tokens) -> list[list[Any]]:
        rng, rows = np.random.default_rng(speech.seed), []
        for rate in TOKEN_ERROR_RATES:
            wrong = rng.random(tokens.shape) < rate
            damaged = substituted(tokens, wrong, self._tokenizer.packing.position_sizes, rng)
            for repair in (False, True):
                sent = repaired(damaged, wrong, self._tokenizer) if repair else damaged
                decoded = self._tokenizer.decode(sent, len(speech.samples), RATE)
                for metric, measure in _RESILIENCE_METRICS.items():
                    try:
                        value = measure(original, checked(original, decoded))[metric].value
                    except Unscored:
                        continue  # the undamaged output's own reason is in the ledger
                    rows.append([rate, repair, metric, value])
        return rows


def disturbed(speech: Speech) -> list[tuple[str, float, str, Samples]]:
    """Kind, amount, unit and samples of every disturbance of an utterance at 16 kHz."""
    samples, rng = speech.samples, np.random.default_rng(speech.seed)
    noise = rng.standard_normal(len(samples)).astype(np.float32)
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    shifts = [ms for ms in SHIFTS_MS if ms * RATE // 1000 < len(samples) // 2]
    return [
        *(("shift", float(ms), "ms", samples[ms * RATE // 1000 :]) for ms in shifts),
        *(("gain", db, "dB", samples * np.float32(10 ** (db / 20))) for db in GAINS_DB),
        *(("noise", db, "dB SNR", samples + noise * np.float32(level * 10 ** (-db / 20))) for db in SNRS_DB),
        ("band_limit", float(BANDWIDTH_HZ), "Hz", low_passed(samples, BANDWIDTH_HZ)),
    ]


def substituted(
    tokens: Tokens, wrong: NDArray[np.bool_], position_sizes: Sequence[int], rng: np.random.Generator
) -> Tokens:
    """Tokens [F, G] with those marked in ``wrong`` [F, G] replaced by another valid id, each as likely."""
    sizes = np.asarray(position_sizes)
    steps = 1 + np.floor(rng.random(tokens.shape) * (sizes - 1)).astype(np.int64)
    return np.where(wrong, (tokens + steps) % sizes, tokens).astype(np.uint16)


def repaired(tokens: Tokens, wrong: NDArray[np.bool_], tokenizer: Tokenizer) -> Tokens:
    """Tokens [F, G] with those known to be wrong interpolated from good frames of their position (see ``REPAIR``)."""
    packing = tokenizer.packing
    digits = packing.unpack(tokens).astype(np.float64)
    frames = np.arange(len(tokens))
    for position in range(packing.num_groups):
        lost = wrong[:, position]
        dims = slice(position * packing.group_size, min((position + 1) * packing.group_size, packing.num_dims))
        if lost.all():
            digits[:, dims] = packing.levels // 2
            continue
        for dim in range(dims.start, dims.stop):
            digits[lost, dim] = np.interp(frames[lost], frames[~lost], digits[~lost, dim])
    return packing.pack(np.rint(digits).astype(np.uint8))


def agreement_of(probes: Sequence[dict[str, Any]]) -> tuple[Agreement, ...]:
    """Agreement over all probed utterances, each token counting alike."""
    sums: dict[tuple[str, float, str], NDArray[np.int64]] = {}
    nums: dict[tuple[str, float, str], int] = {}
    for probe in probes:
        for kind, value, unit, *counts in probe["agreement"]:
            key = (kind, float(value), unit)
            sums[key] = sums.get(key, np.zeros(4, np.int64)) + np.asarray(counts)
            nums[key] = nums.get(key, 0) + 1
    return tuple(
        Agreement.model_validate(
            {"disturbance": kind, "value": value, "unit": unit, "num_utterances": nums[kind, value, unit]}
            | {"tokens": float(counts[0] / counts[1]), "digits": float(counts[2] / counts[3])}
        )
        for (kind, value, unit), counts in sums.items()
    )


def resilience_of(probes: Sequence[dict[str, Any]]) -> tuple[Resilience, ...]:
    """Mean quality over all probed utterances for each rate of errors."""
    values: dict[tuple[float, bool, str], list[float]] = {}
    for probe in probes:
        for rate, repair, metric, value in probe["resilience"]:
            values.setdefault((float(rate), bool(repair), metric), []).append(value)
    return tuple(
        Resilience(token_error_rate=rate, repair=repair, metric=metric, mean=float(np.mean(measured)),
                   num_utterances=len(measured))
        for (rate, repair, metric), measured in sorted(values.items())
    )  # fmt: skip


def certificate(tokenizer: Tokenizer, speeches: Sequence[Speech]) -> tuple[CertificateCheck, ...]:
    """Encode and decode the same utterances alone, in company, padded and with two threads; count what differs."""
    before = torch.get_num_threads()
    rate, hop = tokenizer.sample_rate, tokenizer.framing.hop_length
    waves = [audio.resample(speech.samples, RATE, rate) for speech in speeches]
    whole = [np.pad(wave, (0, -len(wave) % hop)) for wave in waves]
    try:
        torch.set_num_threads(1)
        alone = [tokenizer.encode(wave, rate) for wave in waves]
        sound = [tokenizer.decode(e.tokens, e.num_samples) for e in alone]
        again = [tokenizer.encode(wave, rate) for wave in waves]
        torch.set_num_threads(2)
        checks = [
            _check("alone, again", "each by itself, a second time, one thread", alone, again),
            _check("two threads", "each by itself, two threads", alone, [tokenizer.encode(w, rate) for w in waves]),
            _check("batched", f"all {len(waves)} in one list, two threads", alone, tokenizer.encode(waves, rate)),
            _check("reversed batch", "other neighbours", alone, tokenizer.encode(waves[::-1], rate)[::-1]),
            _check("padded", "silence added up to whole frames", alone, tokenizer.encode(whole, rate)),
            _sound_check(tokenizer, alone, sound),
        ]
    finally:
        torch.set_num_threads(before)
    return tuple(checks)


def _check(name: str, description: str, expected: Sequence[Encoded], found: Sequence[Encoded]) -> CertificateCheck:
    pairs = list(zip(expected, found, strict=True))
    wrong = [e.tokens.size if e.tokens.shape != f.tokens.shape else int((e.tokens != f.tokens).sum()) for e, f in pairs]
    compared = sum(e.tokens.size for e in expected)
    return CertificateCheck(name=name, description=description, num_compared=compared, num_mismatches=sum(wrong))


def _sound_check(tokenizer: Tokenizer, encoded: Sequence[Encoded], sound: Sequence[Samples]) -> CertificateCheck:
    again = tokenizer.decode([e.tokens for e in encoded], [e.num_samples for e in encoded])
    wrong = sum(int((a != b).sum()) for a, b in zip(sound, again, strict=True))
    return CertificateCheck(
        name="decoded in a batch",
        description="samples decoded from one list with two threads, against each decoded alone with one",
        num_compared=sum(len(s) for s in sound),
        num_mismatches=wrong,
    )


def seam_check(tokenizer: Tokenizer, speeches: Sequence[Speech]) -> SeamCheck | None:
    """Join utterances to a recording of more than two windows; None when there is not enough speech for that.

    Spectral flux, the mean absolute change of log-mel bands from one 10 ms frame to the next, is measured in what is
    decoded, within 20 ms of every window border, and compared with its median everywhere.
    """
    window = tokenizer.framing.window_samples
    waves = [audio.resample(speech.samples, RATE, tokenizer.sample_rate) for speech in speeches]
    joined = np.concatenate(waves)[: 3 * window]
    if len(joined) <= 2 * window:
        return None
    encoded = tokenizer.encode(joined, tokenizer.sample_rate)
    decoded = audio.resample(tokenizer.decode(encoded.tokens, len(joined)), tokenizer.sample_rate, RATE)
    flux = np.abs(np.diff(scoring.log_mel(decoded), axis=1)).mean(axis=0)
    borders = [
        at * 100 // tokenizer.sample_rate for at in range(window, len(joined) - tokenizer.sample_rate // 10, window)
    ]
    ratios = np.array([flux[at - 2 : at + 3].mean() for at in borders]) / max(float(np.median(flux)), 1e-9)
    first = tokenizer.encode_piece(joined, slice(window), tokenizer.sample_rate).tokens
    return SeamCheck(
        duration_s=len(joined) / tokenizer.sample_rate,
        num_seams=len(borders),
        flux_ratio=float(ratios.mean()),
        worst_flux_ratio=float(ratios.max()),
        num_mismatches=int((first != encoded.tokens[: len(first)]).sum()),
    )
