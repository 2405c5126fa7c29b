"""Run a tokenizer that `syllabary export --format onnx` wrote, with numpy and onnxruntime alone.

tokenizer = OnnxTokenizer("folder")
tokens = tokenizer.encode(samples)                      # float32 [num_samples] at tokenizer.sample_rate, mono
samples = tokenizer.decode(tokens, len(samples))        # tokens uint16 [frames, groups]
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime


class OnnxTokenizer:
    """Waveforms at the model's rate to tokens and back; raises ValueError where a file is not the exported one."""

    def __init__(self, folder: str | Path) -> None:
        self.about = json.loads((Path(folder) / "graphs.json").read_text())
        self.sample_rate, self.hop_length = int(self.about["sample_rate"]), int(self.about["hop_length"])
        self.window_frames, self.context_frames = int(self.about["window_frames"]), int(self.about["context_frames"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # sums do not depend on the machine's number of cores
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        for name, stated in self.about["graphs"].items():
            data = (Path(folder) / stated["file"]).read_bytes()
            found = hashlib.sha256(data).hexdigest()
            if found != stated["sha256"]:
                raise ValueError(f"{stated['file']} is not the exported graph, but of sha256 {found[:16]}")
            self._sessions[name] = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._weights = np.array(self.about["digit_weights"], np.int64)  # [groups, group_size]
        self._radices = np.array(self.about["radices"], np.int64)

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Tokens uint16 [frames, groups] of samples float [num_samples]."""
        digits = np.concatenate([own for own, _ in self._windows(np.asarray(samples, np.float32))])
        padded = np.pad(digits.astype(np.int64), ((0, 0), (0, self._weights.size - digits.shape[1])))
        return (padded.reshape(len(digits), *self._weights.shape) * self._weights).sum(2).astype(np.uint16)

    def decode(self, tokens: np.ndarray, num_samples: int) -> np.ndarray:
        """Samples float32 [num_samples] of tokens [frames, groups]."""
        tokens = np.asarray(tokens, np.int64)
        if len(tokens) != -(-num_samples // self.hop_length):
            raise ValueError(f"{len(tokens)} frames are not those of {num_samples} samples")
        sizes = self._radices.prod(axis=1)
        if tokens.shape[1:] != sizes.shape or (tokens < 0).any() or (tokens >= sizes).any():
            raise ValueError("tokens that their positions cannot take")
        digits = tokens[:, :, None] // np.maximum(self._weights, 1) % self._radices
        digits = digits.reshape(len(tokens), -1)[:, : self.about["num_dims"]].T[None].astype(np.uint8)
        hop, context, chunks = self.hop_length, self.context_frames, []
        for start in range(0, len(tokens), self.window_frames):
            stop, first = min(start + self.window_frames, len(tokens)), max(0, start - context)
            part = np.ascontiguousarray(digits[:, :, first : stop + context])
            (sound,) = self._sessions["decoder"].run(None, {"digits": part})
            chunks.append(sound[0, (start - first) * hop : (stop - first) * hop])
        return np.concatenate(chunks)[:num_samples]

    def margins(self, samples: np.ndarray) -> np.ndarray:
        """Distance of each frame from the nearest border between two digits [frames]: near 0, runtimes may differ."""
        return np.concatenate([margin for _, margin in self._windows(np.asarray(samples, np.float32))])

    def _windows(self, samples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        frames, window, hop = -(-len(samples) // self.hop_length), self.window_frames, self.hop_length
        padded = np.pad(samples * np.float32(self._gain(samples)), (0, frames * hop - len(samples)))
        for start in range(0, frames, window):
            stop = min(start + window, frames)
            first = start if frames <= window else stop - window  # the last window reaches back to be a whole one
            outputs = self._sessions["encoder"].run(None, {"waveform": padded[None, first * hop : stop * hop]})
            yield outputs[0][0].T[start - first :], outputs[1][0][start - first :]

    def _gain(self, samples: np.ndarray) -> float:
        """What brings the blocks of 20 ms in which something is heard to the model's loudness; no peak above 1."""
        block = max(1, self.sample_rate // 50)
        power = np.pad(samples.astype(np.float64), (0, -len(samples) % block)).reshape(-1, block)
        power = np.square(power).mean(axis=1)
        heard = power[power > (10 ** (-70 / 20)) ** 2]
        if not len(heard):
            return 1.0
        rms = np.sqrt(heard[heard > heard.mean() * (10 ** (-20 / 20)) ** 2].mean())
        return (
            float(min(10 ** (self.about["loudness_dbfs"] / 20) / rms, 1 / float(np.abs(samples).max()))) if rms else 1.0
        )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python read_onnx.py FOLDER IN.npy OUT.npy    (float32 samples at the model's rate)")
    model, wav = OnnxTokenizer(sys.argv[1]), np.load(sys.argv[2])
    np.save(sys.argv[3], model.decode(model.encode(wav), len(wav)))
