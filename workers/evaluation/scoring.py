"""Score one utterance against its original: the metrics and how each is computed. Everything at 16 kHz.

Metrics come in families that are computed together (pitch gives two). A family that fails on one utterance raises
:class:`Unscored` and the others go on. The packages are those of the extra ``evaluate``.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from syllabary.shards.errors import InputError
from syllabary.workers.report.catalogue import METRICS

Samples = NDArray[np.float32]
RATE = 16_000
SILENCE = 1e-4  # RMS below which there is nothing to compare: -80 dB
_PITCH_STEP_S, _PITCH_FLOOR, _PITCH_CEILING = 0.01, 60.0, 500.0


class Unscored(Exception):  # noqa: N818 - a finding, not an error
    """Raised where a metric has no value on this utterance; the message says why."""


@dataclass(frozen=True)
class Measured:
    """A value and its weight in means: 1, or the number of reference words or characters."""

    value: float
    weight: float = 1.0


class Family(NamedTuple):
    """Metrics that are computed together.

    Attributes:
        metrics: their names, as in the catalogue.
        measure: ``module:name`` below this room: a :data:`Measure`, or a class whose instances are one.
        package: that it needs, None for what is always there.
    """

    metrics: tuple[str, ...]
    measure: str
    package: str | None = None


FAMILIES: Mapping[str, Family] = {
    "pesq": Family(("pesq_wb",), "scoring:pesq_wb", "pesq"),
    "stoi": Family(("stoi",), "scoring:stoi", "pystoi"),
    "estoi": Family(("estoi",), "scoring:estoi", "pystoi"),
    "si_sdr": Family(("si_sdr",), "scoring:si_sdr"),
    "mel": Family(("mel_distance",), "scoring:mel_distance"),
    "mos": Family(("distill_mos",), "scoring_models:NaturalnessModel", "distillmos"),
    "speaker": Family(("speaker_similarity",), "scoring_models:VoiceModel", "resemblyzer"),
    "pitch": Family(("f0_rmse", "voicing_error"), "scoring:pitch", "parselmouth"),
    "words": Family(("wer", "cer", "wer_self", "cer_self"), "scoring_models:Recogniser", "moonshine_voice"),
    "wavlm": Family(("wavlm_similarity",), "peers:WavlmSimilarity", "transformers"),
}


def chosen_metrics(names: Iterable[str], *, with_wavlm: bool) -> tuple[str, ...]:
    """The metrics asked for (all without names), in the order of :data:`METRICS`.

    Raises:
        InputError: an unknown metric, one whose package is not installed, or WavLM's without a checkpoint.
    """
    known = [metric.name for metric in METRICS]
    wanted = set(names) or set(known) - (set() if with_wavlm else {"wavlm_similarity"})
    if unknown := sorted(wanted - set(known)):
        raise InputError("unknown metric", value=unknown[0], expected=f"of {', '.join(known)}")
    if "wavlm_similarity" in wanted and not with_wavlm:
        raise InputError("wavlm_similarity without a checkpoint", fix="give --peer wavlm=<directory>")
    for family in families_of(wanted):
        require_package(FAMILIES[family].package, f"metric {FAMILIES[family].metrics[0]}")
    return tuple(name for name in known if name in wanted)


def families_of(metrics: Iterable[str]) -> tuple[str, ...]:
    """The families that some of the metrics belong to."""
    wanted = set(metrics)
    return tuple(name for name, family in FAMILIES.items() if wanted & set(family.metrics))


def require_package(package: str | None, what: str) -> None:
    """Raise InputError, naming the extra, when ``package`` is not installed."""
    if package is None or importlib.util.find_spec(package) is not None:
        return
    fix = "install the extra: pip install 'syllabary[evaluate]' (see the README), or leave it out"
    raise InputError(f"{what} needs a package that is not installed", value=package, fix=fix)


class Original:
    """The original of an utterance, float32 [num_samples] at 16 kHz, and what is computed from it once."""

    def __init__(self, samples: Samples, transcript: str | None = None) -> None:
        self.samples, self.transcript = samples, transcript

    @cached_property
    def log_mel(self) -> NDArray[np.float64]:
        """Log-mel spectrum in dB [bands, frames]."""
        return log_mel(self.samples)

    @cached_property
    def pitch(self) -> NDArray[np.float64]:
        """Hz every 10 ms, 0 where unvoiced."""
        return pitch_of(self.samples)


Measure = Callable[[Original, Samples], Mapping[str, Measured]]


def checked(original: Original, degraded: Samples) -> Samples:
    """The degraded samples, cut or padded to the original's length.

    Raises:
        Unscored: one of the two is silent or not finite.
    """
    if not np.isfinite(degraded).all():
        raise Unscored("the output is not finite")
    for name, samples in (("original", original.samples), ("output", degraded)):
        if not len(samples) or float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) < SILENCE:
            raise Unscored(f"the {name} is silent")
    length = len(original.samples)
    return degraded[:length] if len(degraded) >= length else np.pad(degraded, (0, length - len(degraded)))


def pesq_wb(original: Original, degraded: Samples) -> Mapping[str, Measured]:
    """PESQ, wideband. Raises Unscored where it finds no utterance."""
    from pesq import PesqError, pesq

    try:
        return {"pesq_wb": Measured(float(pesq(RATE, original.samples, degraded, "wb")))}
    except PesqError as error:
        raise Unscored(f"pesq: {_text(error)}") from error


def stoi(original: Original, degraded: Samples) -> Mapping[str, Measured]:
    """STOI."""
    return {"stoi": Measured(_stoi(original, degraded, extended=False))}


def estoi(original: Original, degraded: Samples) -> Mapping[str, Measured]:
    """Extended STOI."""
    return {"estoi": Measured(_stoi(original, degraded, extended=True))}


def _stoi(original: Original, degraded: Samples, *, extended: bool) -> float:
    import pystoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # too short: the package warns and makes a value up
        try:
            # The extended form adds noise of 1e-16 from numpy's global generator.
            np.random.seed(0)
            return float(pystoi.stoi(original.samples, degraded, RATE, extended=extended))
        except RuntimeWarning as error:
            raise Unscored("stoi: fewer than 30 frames of speech") from error


def si_sdr(original: Original, degraded: Samples) -> Mapping[str, Measured]:
    """10 log10 |a s|^2 / |a s - d|^2 with a = <d, s> / |s|^2, means removed (Le Roux et al. 2019); at most 100 dB."""
    s = original.samples.astype(np.float64) - original.samples.mean(dtype=np.float64)
    d = degraded.astype(np.float64) - degraded.mean(dtype=np.float64)
    target = (d @ s) / (s @ s) * s
    error = d - target
    power = float(target @ target)
    return {
        "si_sdr": Measured(float(np.clip(10 * np.log10((power + 1e-20) / (error @ error + 1e-10 * power)), -100, 100)))
    }


def mel_distance(original: Original, degraded: Samples) -> Mapping[str, Measured]:
    """Mean absolute difference of log-mel spectra, dB."""
    return {"mel_distance": Measured(float(np.abs(original.log_mel - log_mel(degraded)).mean()))}


def pitch(original: Original, degraded: Samples) -> Mapping[str, Measured]:
    """F0 RMSE in cents and voicing error in percent; no F0 RMSE where no frame is voiced in both."""
    reference, tracked = original.pitch, pitch_of(degraded)
    num = min(len(reference), len(tracked))
    reference, tracked = reference[:num], tracked[:num]
    if not num:
        raise Unscored("pitch: too short")
    voiced = (reference > 0) & (tracked > 0)
    measured = {"voicing_error": Measured(100 * float(((reference > 0) != (tracked > 0)).mean()))}
    if voiced.any():
        cents = 1200 * np.log2(tracked[voiced] / reference[voiced])
        measured["f0_rmse"] = Measured(float(np.sqrt(np.mean(cents**2))))
    return measured


def pitch_of(samples: Samples) -> NDArray[np.float64]:
    """Praat's autocorrelation pitch, Hz every 10 ms, 0 where unvoiced."""
    import parselmouth

    try:
        track = parselmouth.Sound(samples.astype(np.float64), RATE).to_pitch_ac(
            time_step=_PITCH_STEP_S, pitch_floor=_PITCH_FLOOR, pitch_ceiling=_PITCH_CEILING
        )
    except parselmouth.PraatError as error:
        raise Unscored(f"pitch: {_text(error)}") from error
    return np.asarray(track.selected_array["frequency"], np.float64)


def log_mel(samples: Samples, num_bands: int = 80, window: int = 400, hop: int = 160) -> NDArray[np.float64]:
    """10 log10 of the mel power spectrum [bands, frames], floor -100 dB of full scale, filters of height 1."""
    hann_sum = window / 2
    filters = mel_filters(num_bands, window)
    power = mel_power(samples, num_bands, window, hop) / (filters.max(axis=1)[:, None] * hann_sum**2)
    return 10 * np.log10(np.maximum(power, 1e-10))


def mel_power(samples: Samples, num_bands: int, window: int, hop: int) -> NDArray[np.float64]:
    """Mel power spectrum [bands, frames]: centred periodic Hann windows, Slaney's scale and area normalization."""
    padded = np.pad(samples.astype(np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    result: NDArray[np.float64] = (power @ mel_filters(num_bands, window).T).T
    return result


def mel_filters(num_bands: int, window: int) -> NDArray[np.float64]:
    """Triangular filters [bands, window // 2 + 1] from 0 to 8 kHz on Slaney's scale, each of area 2 / bandwidth."""
    edges = _slaney_hz(np.linspace(0, _slaney_mel(RATE / 2), num_bands + 2))
    bins = np.fft.rfftfreq(window, 1 / RATE)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    area = 2 / (edges[2:] - edges[:-2])
    return np.maximum(0, np.minimum(rising, falling)) * area[:, None]


def _slaney_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000) / np.log(6.4))


def _slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def _text(error: BaseException) -> str:
    first = error.args[0] if error.args else error
    return (first.decode() if isinstance(first, bytes) else str(first)).strip().replace("\n", " ")
