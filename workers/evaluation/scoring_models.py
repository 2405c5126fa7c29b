"""Metrics that are neural networks, their weights shipped in packages: loaded once, run by one thread.

Nothing is fetched: every weight file lies in an installed wheel.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from syllabary.workers.evaluation import scoring, word_errors
from syllabary.workers.evaluation.scoring import (
    FAMILIES,
    RATE,
    Measure,
    Measured,
    Original,
    Samples,
    Unscored,
    checked,
    families_of,
)


class Scorer:
    """All measures of the metrics asked for, each model loaded when the scorer is made."""

    def __init__(self, metrics: Iterable[str], wavlm: str | None = None) -> None:
        self.metrics = tuple(metrics)
        self._measures: dict[str, Measure] = {name: self._measure(name, wavlm) for name in families_of(self.metrics)}

    def __call__(self, family: str, original: Original, degraded: Samples) -> Mapping[str, Measured]:
        """The metrics of one family that were asked for.

        Raises:
            Unscored: it has no value on this pair, or its package failed; the message says why.
        """
        degraded = checked(original, degraded)
        try:
            measured = self._measures[family](original, degraded)
        except Unscored:
            raise
        except Exception as error:  # a package's own failure on one file is reported, and the others go on
            raise Unscored(f"{family}: {type(error).__name__}: {error}".replace("\n", " ")) from error
        return {name: value for name, value in measured.items() if name in self.metrics and np.isfinite(value.value)}

    @property
    def families(self) -> tuple[str, ...]:
        """What :meth:`__call__` takes."""
        return tuple(self._measures)

    @staticmethod
    def _measure(family: str, wavlm: str | None) -> Measure:
        module, _, name = FAMILIES[family].measure.partition(":")
        measure: Any = getattr(import_module(f"syllabary.workers.evaluation.{module}"), name)
        is_function = inspect.isfunction(measure)
        return cast(Measure, measure if is_function else measure(wavlm) if family == "wavlm" else measure())


class NaturalnessModel:
    """DistillMOS: mean opinion score without a reference, mean over segments of 7.68 s.

    Deviation: the package overlaps its segments by up to 6.7 s; here at most by half, a third of the work.
    """

    SEGMENT = 122_880

    def __init__(self) -> None:
        with _absent_torchaudio(), contextlib.redirect_stdout(sys.stderr):
            import distillmos
        with contextlib.redirect_stdout(None):
            model: nn.Module = distillmos.ConvTransformerSQAModel(segmenting_in_forward=False)
        self._model = model.requires_grad_(False).eval()

    def __call__(self, original: Original, degraded: Samples) -> Mapping[str, Measured]:
        """Score of the output alone."""
        return {"distill_mos": Measured(self.score(degraded))}

    def score(self, samples: Samples) -> float:
        """1 to 5."""
        over = max(0, len(samples) - self.SEGMENT)
        starts = np.linspace(0, over, -(-over // (self.SEGMENT // 2)) + 1).astype(int)
        padded = torch.from_numpy(np.pad(samples, (0, max(0, self.SEGMENT - len(samples)))))
        with torch.inference_mode():
            scores = [float(self._model(padded[None, start : start + self.SEGMENT])) for start in starts]
        return float(np.mean(scores))


@contextlib.contextmanager
def _absent_torchaudio() -> Iterator[None]:
    """An empty ``torchaudio`` while distillmos is imported: only its command line uses it, and its wheel does not load
    beside this torch."""
    missing = "torchaudio" not in sys.modules
    if missing:
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
        yield
    finally:
        if missing:
            del sys.modules["torchaudio"]


class VoiceModel(nn.Module):
    """Resemblyzer's voice embedding (GE2E, Wan et al. 2018): three LSTM layers, a projection, unit length.

    Its weights are read from the installed package; importing that would bring librosa and numba for one mel spectrum.
    """

    NUM_BANDS, WINDOW, HOP = 40, 400, 160
    FRAMES, STEP = 160, 77  # 1.6 s, 1.3 per second
    LOUDNESS_DB = -30.0

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(self.NUM_BANDS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        state = torch.load(_package_folder("resemblyzer") / "pretrained.pt", map_location="cpu", weights_only=True)
        self.load_state_dict({k: v for k, v in state["model_state"].items() if not k.startswith("similarity")})
        self.requires_grad_(False).eval()

    def __call__(self, original: Original, degraded: Samples) -> Mapping[str, Measured]:
        """Cosine of the two embeddings."""
        return {"speaker_similarity": Measured(float(self.embed(original.samples) @ self.embed(degraded)))}

    def embed(self, samples: Samples) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [256], of unit length: the mean over windows of 1.6 s."""
        loudness = 10 * np.log10(float(np.mean(np.square(samples, dtype=np.float64))) + 1e-12)
        louder = samples * np.float32(10 ** (max(0.0, self.LOUDNESS_DB - loudness) / 20))
        return self.embed_as_is(louder)

    def embed_as_is(self, samples: Samples) -> np.ndarray[Any, np.dtype[np.float32]]:
        """:meth:`embed` without raising the level."""
        starts = self._starts(len(samples))
        needed = (starts[-1] + self.FRAMES) * self.HOP
        padded = np.pad(samples, (0, max(0, needed - len(samples))))
        mel = scoring.mel_power(padded, self.NUM_BANDS, self.WINDOW, self.HOP).T.astype(np.float32)
        windows = torch.from_numpy(np.stack([mel[s : s + self.FRAMES] for s in starts]))
        with torch.inference_mode():
            mean = self._embed_windows(windows).mean(dim=0)
            unit: np.ndarray[Any, np.dtype[np.float32]] = (mean / mean.norm()).numpy()
        return unit

    def _embed_windows(self, mel: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mel)
        raw = torch.relu(self.linear(hidden[-1]))
        return raw / raw.norm(dim=1, keepdim=True)

    def _starts(self, num_samples: int) -> list[int]:
        num_frames = -(-(num_samples + 1) // self.HOP)
        starts = list(range(0, max(1, num_frames - self.FRAMES + self.STEP + 1), self.STEP))
        covered = (num_samples - starts[-1] * self.HOP) / (self.FRAMES * self.HOP)
        return starts[:-1] if covered < 0.75 and len(starts) > 1 else starts


class Recogniser:
    """Moonshine tiny-en: word and character error rates against the transcript and against the original's own text."""

    def __init__(self) -> None:
        from moonshine_voice import ModelArch, Transcriber, get_assets_path

        # At threshold 0 the voice detector is out of play: it remembers the file before, and cuts words off.
        folder = str(Path(str(get_assets_path())) / "tiny-en")
        self._model = Transcriber(folder, ModelArch.TINY, options={"vad_threshold": "0.0"})
        self._heard: tuple[Samples, str] | None = None

    def __call__(self, original: Original, degraded: Samples) -> Mapping[str, Measured]:
        """WER and CER in percent, weighted by the reference's words and characters."""
        heard = self.recognise(degraded)
        measured: dict[str, Measured] = {}
        references = {"": original.transcript, "_self": self._recognise_original(original)}
        for suffix, reference in references.items():
            if reference is None or not word_errors.words_of(reference):
                continue
            for name, rate in word_errors.error_rates(reference, heard).items():
                measured[name + suffix] = Measured(100 * rate.rate, rate.length)
        if not measured:
            raise Unscored("words: the recogniser hears no word in the original")
        return measured

    def recognise(self, samples: Samples) -> str:
        """Recognise the words of a waveform."""
        lines = self._model.transcribe_without_streaming(samples.tolist(), RATE).lines
        return " ".join(line.text for line in lines)

    def _recognise_original(self, original: Original) -> str:
        if self._heard is None or self._heard[0] is not original.samples:
            self._heard = (original.samples, self.recognise(original.samples))
        return self._heard[1]


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations, "checked where the metrics are chosen"
    return Path(next(iter(spec.submodule_search_locations)))
