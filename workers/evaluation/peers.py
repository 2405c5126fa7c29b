"""Other neural codecs, from a local checkpoint directory: EnCodec, Mimi and DAC as systems, WavLM as a metric.

``--peer NAME=DIR``: DIR is what ``transformers`` saves (config.json and weights); which model it is, its ``model_type``
says. Nothing is fetched. WavLM-large's features, the paper's own baseline, cannot be played: they serve as a ruler, the
mean cosine of the last hidden states of the original and of what a system gave back.

DIR may also be the URI of another tokenizer of ours: one report then has several rates, or what was before and after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import audio, outputs
from syllabary.shards.errors import FormatError, InputError, StorageError
from syllabary.shards.store import Folder
from syllabary.workers.evaluation.baselines import Codec, Degraded, Speech
from syllabary.workers.evaluation.scoring import RATE, Measured, Original, Samples, require_package
from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.report.card import Bitrates, System

CODEC_TYPES = ("dac", "encodec", "mimi")
WAVLM = "wavlm"
TOKENIZER = "tokenizer"


def peer_directories(peers: Iterable[str]) -> dict[str, str]:
    """NAME=DIR arguments as directories by name.

    Raises:
        InputError: not NAME=DIR, a name twice, no checkpoint of a known model there, or an unknown builtin.
    """
    directories: dict[str, str] = {}
    for peer in peers:
        name, equals, folder = peer.partition("=")
        if not equals or not name.replace("_", "").isalnum() or name in directories:
            raise InputError("--peer", value=peer, expected="NAME=DIR, each name once", fix="name=<checkpoint folder>")
        directories[name] = folder
        if _model_type(folder) not in (*CODEC_TYPES, WAVLM, TOKENIZER):
            expected = f"model_type one of {', '.join((*CODEC_TYPES, WAVLM))} in its config.json, or a tokenizer"
            raise InputError(
                f"--peer {name}: no known checkpoint in {folder}", value=_model_type(folder), expected=expected
            )
        if _model_type(folder) != TOKENIZER:
            require_package("transformers", f"--peer {name}")
    return directories


def _model_type(folder: str) -> str | None:
    """What config.json says: a model of transformers, or a tokenizer of ours."""
    try:
        values = Folder(folder).read_json("config.json")
    except (StorageError, FormatError):
        return None
    kind = TOKENIZER if values.get("kind") == TOKENIZER else values.get("model_type")
    return None if kind is None else str(kind)


def peer_digest(folder: str) -> str:
    """sha256 of a checkpoint's configuration and the names and sizes of its files."""
    files = [[entry.name, entry.size_bytes] for entry in Folder(folder).list()]
    return outputs.digest([files, Folder(folder).read("config.json").decode()])


def wavlm_folder(peers: Iterable[str]) -> str | None:
    """Where the WavLM checkpoint lies, if one is given."""
    folders = [folder for folder in peer_directories(peers).values() if _model_type(folder) == WAVLM]
    return folders[0] if folders else None


def load_peers(peers: Iterable[str]) -> tuple[Codec, ...]:
    """The codecs among the peers, loaded.

    Raises:
        InputError: a checkpoint that does not load.
        FormatError: a damaged tokenizer.
    """
    checkpoints = {name: (folder, _model_type(folder)) for name, folder in peer_directories(peers).items()}
    return tuple(
        OtherTokenizer(name, folder) if kind == TOKENIZER else NeuralCodec(name, Path(folder))
        for name, (folder, kind) in checkpoints.items() if kind != WAVLM
    )  # fmt: skip


def require_peers(peers: Iterable[str]) -> None:
    """Load every checkpoint once, to fail before any work is done. Raises InputError."""
    load_peers(peers)
    if folder := wavlm_folder(peers):
        WavlmSimilarity(folder)


def _load(folder: str | Path, class_name: str) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        return getattr(transformers, class_name).from_pretrained(str(folder), local_files_only=True).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"checkpoint does not load ({first})", value=str(folder)) from error


class NeuralCodec:
    """EnCodec, Mimi or DAC at its lowest configured rate, batch of one, one channel."""

    _CLASSES: Mapping[str, str] = {"dac": "DacModel", "encodec": "EncodecModel", "mimi": "MimiModel"}

    def __init__(self, name: str, folder: Path) -> None:
        kind = str(_model_type(str(folder)))
        self._model = _load(folder, self._CLASSES[kind])
        self._rate = int(self._model.config.sampling_rate)
        self.system = System(
            name=name, label=name, kind="baseline", description=f"{kind}, {self._rate:,} Hz, local checkpoint.",
            bitrates=Bitrates(),
        )  # fmt: skip

    def __call__(self, speech: Speech) -> Degraded:
        """Codes and back; the bits are those of the codes, log2 of the codebook each."""
        import torch

        samples = audio.resample(speech.stored, speech.stored_rate, self._rate)
        with torch.inference_mode():
            codes, decoded = self._round_trip(torch.from_numpy(np.ascontiguousarray(samples))[None, None])
        wave = audio.fit_length(decoded.reshape(-1).float().numpy(), len(samples))
        back = audio.fit_length(audio.resample(wave, self._rate, RATE), len(speech.samples))
        return Degraded(back, int(codes.numel() * math.log2(int(self._model.config.codebook_size))))

    def _round_trip(self, wave: Any) -> tuple[Any, Any]:
        encoded = self._model.encode(wave)
        codes = encoded.audio_codes
        if self._model.config.model_type == "encodec":
            return codes, self._model.decode(codes, encoded.audio_scales)[0]
        if self._model.config.model_type == "mimi":
            return codes, self._model.decode(codes)[0]
        return codes, self._model.decode(audio_codes=codes)[0]


class OtherTokenizer:
    """Another tokenizer of ours, at its own rate."""

    def __init__(self, name: str, uri: str) -> None:
        from syllabary.workers.tokenizer.tokenizer import Tokenizer

        self._tokenizer = Tokenizer.load(uri)
        rates, digests = rates_of(self._tokenizer.config), self._tokenizer.digests
        self.system = System(
            name=name, label=name, kind="baseline",
            description=f"Tokenizer, encoder {digests.encoder[:12]}, decoder {digests.decoder[:12]}.",
            bitrates=Bitrates(payload=rates.payload_bits_per_s, nominal=rates.nominal_bits_per_s),
        )  # fmt: skip

    def __call__(self, speech: Speech) -> Degraded:
        """Tokens and back; the bits are the payload of its frames."""
        tokens = self._tokenizer.encode(speech.stored, speech.stored_rate).tokens
        decoded = self._tokenizer.decode(tokens, len(speech.stored), speech.stored_rate)
        config = self._tokenizer.config
        num_bits = len(tokens) * config.encoder.latent_dim * math.log2(config.fsq.levels)
        return Degraded(audio.resample(decoded, speech.stored_rate, RATE), round(num_bits))


class WavlmSimilarity:
    """Mean cosine of WavLM's last hidden states, frame by frame."""

    def __init__(self, folder: str) -> None:
        self._model = _load(folder, "WavLMModel")
        self._last: tuple[Samples, NDArray[np.float32]] | None = None

    def __call__(self, original: Original, degraded: Samples) -> dict[str, Measured]:
        """The metric ``wavlm_similarity``."""
        if self._last is None or self._last[0] is not original.samples:
            self._last = original.samples, self.features(original.samples)
        one, other = self._last[1], self.features(degraded)
        cosine = (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1) + 1e-9)
        return {"wavlm_similarity": Measured(float(cosine.mean()))}

    def features(self, samples: Samples) -> NDArray[np.float32]:
        """float32 [frames, dim] of samples at 16 kHz, normalized as the model was trained."""
        import torch

        normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        with torch.inference_mode():
            hidden = self._model(torch.from_numpy(normal.astype(np.float32))[None]).last_hidden_state[0]
        result: NDArray[np.float32] = hidden.float().numpy()
        return result
