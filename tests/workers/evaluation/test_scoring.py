"""Metrics: extremes, known values, real speech that a package ships, and what has no value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from syllabary.shards import audio
from syllabary.shards.errors import InputError
from syllabary.workers.evaluation import scoring
from syllabary.workers.evaluation.baselines import Speech, low_passed, noise_like, standard_baselines
from syllabary.workers.evaluation.scoring import FAMILIES, RATE, Original, Unscored, chosen_metrics
from syllabary.workers.evaluation.scoring_models import NaturalnessModel, Recogniser, Scorer, VoiceModel
from syllabary.workers.report.catalogue import METRICS
from tests.conftest import voiced

BECKETT = "ever tried ever failed"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Ten seconds of a voice reading Beckett: a sample file of the recogniser's package."""
    import moonshine_voice

    path = Path(moonshine_voice.__file__).parent / "assets" / "beckett.wav"
    samples, rate = audio.decode(path.read_bytes())
    return audio.resample(samples, rate, RATE)


@pytest.fixture(scope="module")
def short(speech: np.ndarray) -> np.ndarray:
    return speech[: 3 * RATE]


def noisy(samples: np.ndarray, snr_db: float) -> np.ndarray:
    return samples + noise_like(samples, 0) * np.float32(10 ** (-snr_db / 20))


def test_every_metric_belongs_to_one_family() -> None:
    members = [metric for family in FAMILIES.values() for metric in family.metrics]
    assert sorted(members) == sorted(metric.name for metric in METRICS) and len(set(members)) == len(members)


def test_the_original_is_the_best_and_noise_makes_it_worse(short: np.ndarray) -> None:
    names = ("stoi", "estoi", "si_sdr", "mel_distance", "f0_rmse", "voicing_error")
    scorer, original = Scorer(names), Original(short)

    def values(degraded: np.ndarray) -> dict[str, float]:
        return {name: m.value for family in scorer.families for name, m in scorer(family, original, degraded).items()}

    best, worse, worst = values(short), values(noisy(short, 20)), values(noisy(short, 0))
    assert best == pytest.approx(dict.fromkeys(names, 0) | {"stoi": 1, "estoi": 1, "si_sdr": 100}, abs=1e-6)
    for metric in METRICS:
        if metric.name in ("stoi", "estoi", "si_sdr"):
            assert best[metric.name] > worse[metric.name] > worst[metric.name]
        if metric.name in ("mel_distance", "voicing_error"):
            assert best[metric.name] < worse[metric.name] < worst[metric.name]


def test_pesq_spans_its_scale(short: np.ndarray) -> None:
    pytest.importorskip("pesq", reason="pesq needs a C compiler to install")
    scorer, original = Scorer(["pesq_wb"]), Original(short)
    found = [scorer("pesq", original, d)["pesq_wb"].value for d in (short, noisy(short, 20), noisy(short, 0))]
    assert found[0] == pytest.approx(4.644, abs=0.001) and found[0] > found[1] > found[2] >= 1


def test_si_sdr_is_the_ratio_and_minds_no_gain(short: np.ndarray) -> None:
    measured = scoring.si_sdr(Original(short), noisy(short, 10) * np.float32(0.3))["si_sdr"].value
    assert measured == pytest.approx(10, abs=0.3)


def test_f0_rmse_is_the_interval_between_two_pitches() -> None:
    time = np.arange(RATE) / RATE
    tones = [np.sum([np.sin(2 * np.pi * k * hz * time) / k for k in range(1, 8)], axis=0) for hz in (100, 106)]
    found = scoring.pitch(Original((0.1 * tones[0]).astype(np.float32)), (0.1 * tones[1]).astype(np.float32))
    assert found["f0_rmse"].value == pytest.approx(1200 * np.log2(1.06), abs=3)
    assert found["voicing_error"].value == 0


def test_mel_filters_cover_the_band_on_slaney_s_scale() -> None:
    filters = scoring.mel_filters(40, 400)
    assert filters.shape == (40, 201) and (filters.sum(axis=1) > 0).all()
    # The last of 40 bands up to 8 kHz, by the formula: linear to 1 kHz, then a factor 6.4 ** (1/27) a mel.
    assert np.argmax(filters[-1]) * 40 == pytest.approx(7_400, abs=100)


def test_the_voice_model_tells_voices_apart(short: np.ndarray) -> None:
    model = VoiceModel()
    embedding = model.embed(short)
    assert embedding.shape == (256,) and np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    same = model(Original(short), low_passed(short, 4_000))["speaker_similarity"].value
    other = model(Original(short), voiced(np.random.default_rng(0), 3.0, 220))["speaker_similarity"].value
    assert other < same - 0.1 and same > 0.7
    assert model(Original(short), short * np.float32(0.05))["speaker_similarity"].value > 0.99, "level does not matter"


def test_naturalness_prefers_clean_speech_and_needs_no_particular_length(speech: np.ndarray, short: np.ndarray) -> None:
    model = NaturalnessModel()
    clean = model.score(short)
    assert 1 <= model.score(noisy(short, 0)) < clean - 0.5 and clean <= 5
    assert 1 <= model.score(speech[: 9 * RATE]) <= 5


def test_the_recogniser_reads_and_remembers_nothing(short: np.ndarray) -> None:
    recogniser, original = Recogniser(), Original(short, BECKETT)
    first = recogniser(original, short)
    assert first["wer"].value <= 40 and first["wer"].weight == len(BECKETT.split())
    assert (first["wer_self"].value, first["cer_self"].value) == (0, 0)
    assert recogniser(original, noisy(short, -10))["wer"].value > first["wer"].value
    assert recogniser(original, short) == first
    assert set(recogniser(Original(short), short)) == {"wer_self", "cer_self"}


def test_silence_and_nonsense_have_no_value(short: np.ndarray) -> None:
    scorer, original = Scorer(["mel_distance", "stoi"]), Original(short)
    with pytest.raises(Unscored, match="the output is silent"):
        scorer("mel", original, np.zeros_like(short))
    with pytest.raises(Unscored, match="the original is silent"):
        scorer("mel", Original(np.zeros_like(short)), short)
    with pytest.raises(Unscored, match="not finite"):
        scorer("mel", original, np.full_like(short, np.nan))
    with pytest.raises(Unscored, match="30 frames"):
        scorer("stoi", Original(short[: RATE // 5]), short[: RATE // 5])


def test_a_package_that_fails_is_a_finding(short: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("of its own\nmaking")

    monkeypatch.setattr(scoring, "mel_distance", fails)
    with pytest.raises(Unscored, match=r"^mel: ZeroDivisionError: of its own making$"):
        Scorer(["mel_distance"])("mel", Original(short), short)


def test_metrics_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_metrics(["estoi", "stoi"], with_wavlm=False) == ("stoi", "estoi")
    with pytest.raises(InputError, match="unknown metric: 'mos'; expected of pesq_wb, stoi"):
        chosen_metrics(["mos"], with_wavlm=False)
    with pytest.raises(InputError, match="--peer wavlm="):
        chosen_metrics(["wavlm_similarity"], with_wavlm=False)
    monkeypatch.setattr(scoring.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"metric stoi needs a package.*'pystoi'; install the extra.*evaluate"):
        chosen_metrics(["stoi", "si_sdr"], with_wavlm=False)
    assert chosen_metrics(["si_sdr"], with_wavlm=False) == ("si_sdr",)


def lag_ms(original: np.ndarray, found: np.ndarray, most: int = 60) -> int:
    """By how many ms ``found`` comes late: the best correlation of band envelopes."""

    def envelopes(samples: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, 160), 320)[::16]
        spectrum = np.abs(np.fft.rfft(frames * np.hanning(320), axis=1))[:, 4:76]
        bands = np.log(spectrum + 1e-3).reshape(len(frames), -1, 4).mean(axis=2)
        return bands - bands.mean(axis=0)

    a, b = envelopes(original), envelopes(found)
    size = min(len(a), len(b)) - most
    scores = [(a[most:size] * b[most + lag : size + lag]).sum() for lag in range(-most, most + 1)]
    return int(np.argmax(scores)) - most


def test_baselines_come_back_in_time_at_their_rate(speech: np.ndarray) -> None:
    utterance = Speech.of("beckett", speech, RATE)
    expected = {"codec2_700c": 700, "codec2_1300": 1300, "codec2_3200": 3200, "opus_6k": 6000}
    for codec in standard_baselines(RATE):
        degraded, name = codec(utterance), codec.system.name
        assert degraded.samples.shape == speech.shape and degraded.samples.dtype == np.float32, name
        assert np.array_equal(degraded.samples, codec(utterance).samples), f"{name} is not repeatable"
        if codec.system.kind != "floor":
            assert abs(lag_ms(speech, degraded.samples)) <= 3, name
        rate = None if degraded.num_bits is None else degraded.num_bits / (len(speech) / RATE)
        assert rate == (pytest.approx(expected[name], rel=0.25) if name in expected else None)


def test_every_metric_has_a_ceiling_and_a_floor(short: np.ndarray) -> None:
    """No row of a report stands without its scale: the original has the best value, and some floor a worse one."""
    pytest.importorskip("pesq", reason="pesq needs a C compiler to install")
    names = chosen_metrics((), with_wavlm=False)
    scorer, original, speech = Scorer(names), Original(short, BECKETT), Speech.of("beckett", short, RATE)
    systems = {codec.system.name: codec for codec in standard_baselines(RATE) if codec.system.kind != "baseline"}
    found: dict[str, dict[str, float]] = {}
    for system in ("original", "noise", "reversed"):
        samples, values = systems[system](speech).samples, found.setdefault(system, {})
        for family in scorer.families:
            values |= {metric: m.value for metric, m in scorer(family, original, samples).items()}
    assert set(found["original"]) == set(names) == set(found["noise"]) | set(found["reversed"])
    for metric in (metric for metric in METRICS if metric.name in names):
        sign = 1 if metric.direction == "higher" else -1
        floors = [sign * found[name][metric.name] for name in ("noise", "reversed") if metric.name in found[name]]
        assert min(floors) < sign * found["original"][metric.name], metric.name


def test_a_narrow_model_gets_the_original_at_its_own_bandwidth() -> None:
    names = [codec.system.name for codec in standard_baselines(12_000) if codec.system.kind == "ceiling"]
    assert names == ["original", "lowpass_6k", "lowpass_4k"]


def pitches(monkeypatch: pytest.MonkeyPatch, original: list[float], found: list[float]) -> dict[str, float]:
    """The pitch metrics of two known pitch tracks, 0 where unvoiced."""
    tracks = {1.0: np.array(original, np.float64), 2.0: np.array(found, np.float64)}
    monkeypatch.setattr(scoring, "pitch_of", lambda samples: tracks[float(samples[0])])
    measured = scoring.pitch(Original(np.full(9, 1.0, np.float32)), np.full(9, 2.0, np.float32))
    return {name: m.value for name, m in measured.items()}


def test_voicing_error_is_a_share_of_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten frames three are voiced in one only, two in both and five in neither: 30 %, not 60 % and not 150 %."""
    found = pitches(monkeypatch, [100, 200, 100, 0, 0, 0, 0, 0, 0, 0], [200, 200, 0, 150, 150, 0, 0, 0, 0, 0])
    assert found["voicing_error"] == pytest.approx(30)
    # An octave and none: sqrt((1200^2 + 0^2) / 2) cents.
    assert found["f0_rmse"] == pytest.approx(1200 / np.sqrt(2))


def test_tracks_of_two_lengths_are_compared_where_both_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pitches(monkeypatch, [100, 100, 0, 0, 90, 90], [100, 100, 0, 50])
    assert found == {"voicing_error": 25.0, "f0_rmse": 0.0}
    assert pitches(monkeypatch, [100, 0], [0, 100]) == {"voicing_error": 100.0}
    with pytest.raises(Unscored, match="too short"):
        pitches(monkeypatch, [], [100.0])
