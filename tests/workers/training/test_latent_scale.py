"""Latents are moved by mean and deviation over all clips' frames, worked by hand, and a still dim is not blown up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load

from syllabary.shards.errors import InputError
from syllabary.workers.training import standardize as latent_scale

# Two clips of two frames and one; the third dim does not move, the fourth hardly.
CLIPS = (
    torch.tensor([[[1.0, 3.0], [0.0, 2.0], [5.0, 5.0], [1.0, 1.0]]]),
    torch.tensor([[[5.0], [4.0], [5.0], [1.0 + 3e-5]]]),
)


class Known(torch.nn.Module):
    """An encoder whose latents of clip n are known; it keeps what it is told to standardize by."""

    def forward(self, waveform: torch.Tensor, num_samples: torch.Tensor) -> SimpleNamespace:
        assert not self.training, "measured without dropout"
        return SimpleNamespace(latents=CLIPS[int(num_samples)])

    def standardize(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.mean, self.std = mean, std


def standardized(monkeypatch: pytest.MonkeyPatch, folder: Path, clips: tuple[int, ...] = (0, 1)) -> Known:
    batches = [SimpleNamespace(waveform=torch.zeros(1, 1), num_samples=torch.tensor(n)) for n in clips]
    monkeypatch.setattr(latent_scale, "_clips", lambda job: iter(batches))
    encoder = Known().train()
    setup = SimpleNamespace(job=SimpleNamespace(run_uri=str(folder)), device=torch.device("cpu"))
    latent_scale.standardize_latents(encoder, setup)
    assert encoder.training
    return encoder


def test_mean_and_deviation_over_the_frames_of_all_clips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = standardized(monkeypatch, tmp_path)
    assert found.mean[:3].tolist() == [3.0, 2.0, 5.0]
    assert found.std[:2].tolist() == pytest.approx([(8 / 3) ** 0.5, (8 / 3) ** 0.5])


def test_a_dim_that_hardly_moves_is_divided_by_a_thousandth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not by 0, which gives infinity, nor by 1e-5, which would make noise of rounding as loud as speech."""
    assert standardized(monkeypatch, tmp_path).std[2:].tolist() == pytest.approx([1e-3, 1e-3])


def test_what_was_measured_once_is_read_by_every_restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = standardized(monkeypatch, tmp_path)
    again = standardized(monkeypatch, tmp_path, clips=(1,))
    assert again.mean.equal(first.mean) and again.std.equal(first.std)
    stored = load((tmp_path / "latent_scale.safetensors").read_bytes())
    assert stored["mean"].equal(first.mean) and stored["std"].equal(first.std)


def test_no_clip_at_all_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training clip can be read"):
        standardized(monkeypatch, tmp_path, clips=())
    assert list(tmp_path.iterdir()) == []
