"""Pitch (beyond the paper): a tracker that teaches it and the layer that reads it from the decoder's features.

tracker  autocorrelation of the windowed signal over that of its window -> strengths of 72 pitches and of "unvoiced"
         -> the best path (Boersma 1993, whose costs are used)
layer    features -> scores of 72 pitches from 60 to 480 Hz, 24 an octave, and of "unvoiced"
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syllabary.model.layers import full_precision, over_clips, valid_mask, zero_invalid

LOWEST_HZ, PER_OCTAVE, NUM_PITCHES = 60.0, 24, 72
UNVOICED = NUM_PITCHES

_WINDOW_S = 0.045  # somewhat less than three periods of the lowest pitch, as a compromise with fast changes
_VOICING_THRESHOLD, _SILENCE_THRESHOLD, _OCTAVE_COST = 0.45, 0.03, 0.01
_JUMP_COST, _VOICING_COST, _COSTS_FOR_S = 0.35, 0.14, 0.01
_SMOOTHING = (1.0, 2.0, 3.0, 2.0, 1.0)
_NEAR = 3  # pitches on either side of the likeliest that say what lies between them


def pitches_hz(device: torch.device | None = None) -> Float[Tensor, "pitches"]:
    """The pitches that the layer tells apart, in Hz."""
    steps = torch.arange(NUM_PITCHES, dtype=torch.float32, device=device) / PER_OCTAVE
    return LOWEST_HZ * torch.exp2(steps)


@torch.no_grad()
def track_pitch(
    waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"], sample_rate: int, hop_length: int
) -> Float[Tensor, "batch positions"]:
    """The pitch in Hz at the middle of each position of ``hop_length`` samples; 0 where nothing is voiced.

    ``num_samples`` stays on the CPU; positions beyond a clip are unvoiced.
    """
    with full_precision(waveform.device):
        strengths, loudness = _strengths(waveform.float(), sample_rate, hop_length)
    valid = valid_mask(-(-num_samples // hop_length), strengths.shape[1], waveform.device)
    loudest = waveform.abs().amax(dim=1).clamp(min=1e-9)[:, None]
    quiet = 2 - (loudness / loudest) / (_SILENCE_THRESHOLD / (1 + _VOICING_THRESHOLD))
    unvoiced = _VOICING_THRESHOLD + quiet.clamp(min=0)
    states = torch.cat([strengths, unvoiced[..., None]], dim=-1)
    path = _best_path(states, hop_length / sample_rate)
    return _between(strengths, path).masked_fill(~valid | (path == UNVOICED), 0.0)


def pitch_index(hertz: Float[Tensor, "batch positions"]) -> Int[Tensor, "batch positions"]:
    """The nearest of ``pitches_hz``; ``UNVOICED`` where there is none (0 Hz)."""
    nearest = (PER_OCTAVE * torch.log2(hertz.clamp(min=LOWEST_HZ) / LOWEST_HZ)).round().long()
    return torch.where(hertz > 0, nearest.clamp(max=NUM_PITCHES - 1), UNVOICED)


def _between(
    strengths: Float[Tensor, "batch positions pitches"], path: Int[Tensor, "batch positions"]
) -> Float[Tensor, "batch positions"]:
    """The pitch in Hz at the top of the parabola through a strength and its neighbours."""
    at = path.clamp(min=1, max=NUM_PITCHES - 2)[..., None]
    left, middle, right = (strengths.gather(2, at + apart)[..., 0] for apart in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp(max=-1e-6)
    peak = at[..., 0] + (0.5 * (left - right) / bend).clamp(min=-1, max=1)
    return LOWEST_HZ * torch.exp2(peak / PER_OCTAVE)


def _strengths(
    waveform: Float[Tensor, "batch samples"], sample_rate: int, hop_length: int
) -> tuple[Float[Tensor, "batch positions pitches"], Float[Tensor, "batch positions"]]:
    """How strongly each pitch is heard at each position (1: a periodic signal), and the peak about it."""
    size = 2 * round(_WINDOW_S * sample_rate / 2)
    positions = -(-waveform.shape[1] // hop_length)
    front = (size - hop_length) // 2
    back = (positions - 1) * hop_length + size - front - waveform.shape[1]
    segments = F.pad(waveform, (front, max(0, back))).unfold(-1, size, hop_length)
    segments = segments - segments.mean(dim=-1, keepdim=True)
    window = torch.hann_window(size, device=waveform.device)
    lags = sample_rate / pitches_hz(waveform.device)
    heard = _autocorrelation(segments * window, lags)
    return heard / _autocorrelation(window[None, None], lags) - _octave_costs(waveform.device), segments.abs().amax(-1)


def _autocorrelation(
    segments: Float[Tensor, "batch positions size"], lags: Float[Tensor, "pitches"]
) -> Float[Tensor, "batch positions pitches"]:
    """Autocorrelation at lags that are no whole numbers, over that at lag 0."""
    finer = 4  # points a sample: what lies between them is a straight line
    size = 1 << (2 * segments.shape[-1] - 1).bit_length()
    power = torch.fft.rfft(segments, n=size).abs().square()
    curve = torch.fft.irfft(F.pad(power, (0, (finer - 1) * size // 2)), n=finer * size)
    at = lags * finer
    low = at.floor().long()
    between = curve[..., low] + (at - low) * (curve[..., low + 1] - curve[..., low])
    return between / curve[..., :1].clamp(min=1e-12)


def _octave_costs(device: torch.device) -> Float[Tensor, "pitches"]:
    """What favours the higher of pitches an octave apart, both of which a periodic signal has."""
    octaves = torch.arange(NUM_PITCHES, device=device) / PER_OCTAVE
    return _OCTAVE_COST * (octaves.max() - octaves)


def _best_path(states: Float[Tensor, "batch positions states"], hop_s: float) -> Int[Tensor, "batch positions"]:
    """The states that are strongest together, less what it costs to go from one to another (Viterbi)."""
    scale = _COSTS_FOR_S / hop_s
    index = torch.arange(NUM_PITCHES, device=states.device)
    costs = torch.full((NUM_PITCHES + 1,) * 2, scale * _VOICING_COST, device=states.device)
    costs[:-1, :-1] = scale * _JUMP_COST * (index[:, None] - index).abs() / PER_OCTAVE
    costs[-1, -1] = 0
    best, came_from = states[:, 0], []
    for position in range(1, states.shape[1]):
        best, origin = (best[:, :, None] - costs).max(dim=1)
        best = best + states[:, position]
        came_from.append(origin)
    path = [best.argmax(dim=1)]
    for origin in reversed(came_from):
        path.append(origin.gather(1, path[-1][:, None])[:, 0])
    return torch.stack(path[::-1], dim=1)


class PitchLayer(nn.Conv1d):
    """Features to scores of the pitches and of "unvoiced"."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, NUM_PITCHES + 1, 1)
        nn.init.normal_(self.weight, std=0.3 / math.sqrt(channels))
        assert self.bias is not None
        nn.init.zeros_(self.bias)


def likeliest_hz(
    scores: Float[Tensor, "batch states positions"], mask: Bool[Tensor, "batch positions"] | None
) -> Float[Tensor, "batch positions"]:
    """The pitch in Hz that the scores of some 100 ms favour, as if all were voiced.

    In double precision: the last bits of a mean in single precision, which follow the library and the shape of a batch,
    would be heard in the highest harmonics, whose phases turn by thousands of cycles in a frame.
    """
    chances = zero_invalid(scores[:, :NUM_PITCHES].double().softmax(dim=1), mask)
    reach = len(_SMOOTHING) // 2
    near_in_time = F.pad(chances, (reach, reach)).unfold(-1, len(_SMOOTHING), 1)
    smooth = near_in_time @ torch.tensor(_SMOOTHING, dtype=torch.float64, device=scores.device)
    index = torch.arange(NUM_PITCHES, device=scores.device)[None, :, None]
    near = smooth * ((index - smooth.argmax(dim=1, keepdim=True)).abs() <= _NEAR)
    mean = (near * index).sum(dim=1) / near.sum(dim=1).clamp(min=1e-9)
    return (LOWEST_HZ * torch.exp2(mean / PER_OCTAVE)).float()


def pitch_loss(
    scores: Float[Tensor, "batch states positions"],
    hertz: Float[Tensor, "batch positions"],
    num_samples: Int[Tensor, "batch"],
    hop_length: int,
) -> Float[Tensor, ""]:
    """Cross entropy of scores and tracked pitches, whose neighbours get a share; clips weigh by their samples."""
    shared = min(scores.shape[-1], hertz.shape[-1])
    scores, wanted = scores[..., :shared].float(), pitch_index(hertz[:, :shared])
    mask = valid_mask(-(-num_samples // hop_length), shared, scores.device)
    terms = -(_neighbourhood(wanted).transpose(1, 2) * scores.log_softmax(dim=1)).sum(dim=1)
    return over_clips(terms.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1), num_samples)


def _neighbourhood(wanted: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions states"]:
    """A bell about the pitch, a semitone to either side; all on "unvoiced" where it is so."""
    index = torch.arange(NUM_PITCHES, device=wanted.device)
    bell = torch.exp(-0.5 * (index - wanted[..., None]).float().square())
    bell = F.pad(bell / bell.sum(dim=-1, keepdim=True), (0, 1))
    is_voiced = (wanted != UNVOICED)[..., None]
    return torch.where(is_voiced, bell, F.one_hot(torch.full_like(wanted, UNVOICED), NUM_PITCHES + 1).float())


@torch.no_grad()
def pitch_errors(
    scores: Float[Tensor, "batch states positions"],
    hertz: Float[Tensor, "batch positions"],
    num_samples: Int[Tensor, "batch"],
    hop_length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers of positions: voicing wrong, all of them; more than a semitone off, all that are voiced in both."""
    shared = min(scores.shape[-1], hertz.shape[-1])
    guessed, wanted = scores[..., :shared].argmax(dim=1), pitch_index(hertz[:, :shared])
    mask = valid_mask(-(-num_samples // hop_length), shared, scores.device)
    voiced, meant = guessed != UNVOICED, wanted != UNVOICED
    both = voiced & meant & mask
    off = both & ((guessed - wanted).abs() > 2)
    return ((voiced != meant) & mask).sum(), mask.sum(), off.sum(), both.sum()
