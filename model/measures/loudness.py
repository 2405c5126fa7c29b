"""The level at which speech is encoded: every utterance is brought to one loudness before anything else sees it.

    blocks of 20 ms from the first sample on, power p_i (the last one filled up with zeros)
    heard = {i: p_i > -70 dBFS};  active = {i in heard: p_i > mean over heard of p - 20 dB}
    gain = min(10^(L / 20) / sqrt(mean over active of p), 1 / peak)

A gate as in ITU-R BS.1770, without its filter: silence beside speech, padding included, changes nothing, and neither
does the company of other clips. The encoder never has to spend code on how near the microphone was; tokens decode to
speech at the level L. Silence stays as it is, nothing is lifted from below -70 dBFS, and no peak leaves -1 .. 1.
Deviation: the paper takes samples as they come.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_BLOCKS_PER_S = 50
_HEARD_DBFS, _ACTIVE_DB = -70.0, -20.0


def rms_of_dbfs(level_dbfs: float) -> float:
    """The RMS of a level in dB below full scale."""
    return float(10 ** (level_dbfs / 20))


def active_rms(samples: Float[Tensor, "samples"], sample_rate: int) -> float:
    """RMS of the blocks in which something is to be heard; 0 for silence."""
    block = max(1, sample_rate // _BLOCKS_PER_S)
    padded = F.pad(samples.double(), (0, -len(samples) % block))
    power = padded.view(-1, block).square().mean(dim=1)
    heard = power[power > rms_of_dbfs(_HEARD_DBFS) ** 2]
    if not len(heard):
        return 0.0
    return float(heard[heard > heard.mean() * rms_of_dbfs(_ACTIVE_DB) ** 2].mean().sqrt())


def loudness_gain(samples: Float[Tensor, "samples"], sample_rate: int, loudness_dbfs: float) -> float:
    """The factor that brings an utterance to ``loudness_dbfs``; 1 for silence."""
    rms = active_rms(samples, sample_rate)
    if not rms:
        return 1.0
    return min(rms_of_dbfs(loudness_dbfs) / rms, 1 / float(samples.abs().max()))
