"""The code length of digits under an adaptive model of what came before: a rate that a coder really reaches.

The model mixes three Krichevsky-Trofimov estimators of each dim's digit: without context, after the same dim's digit
one frame before, and after the previous dim's digit in the same frame. Its weights are the experts' posterior
probabilities (Bayesian mixture), each dim with its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NUM_EXPERTS, _PRIOR_COUNT = 3, 0.5


def context_bits(utterances: Sequence[NDArray[np.uint8]], levels: int) -> float:
    """Code length in bits of the digits [F, D] of utterances one after the other, by the adaptive context model."""
    num_dims = utterances[0].shape[1]
    dims = np.arange(num_dims)
    counts = np.full((_NUM_EXPERTS, num_dims, levels + 1, levels), _PRIOR_COUNT)
    log_weights = np.full((_NUM_EXPERTS, num_dims), -np.log(_NUM_EXPERTS))
    total = 0.0
    for digits in utterances:
        before = np.full(num_dims, levels)  # context "nothing yet"
        for frame in digits.astype(np.int64):
            contexts = np.stack([np.zeros(num_dims, np.int64), before, np.concatenate(([levels], frame[:-1]))])
            seen = np.stack([counts[e, dims, contexts[e]] for e in range(_NUM_EXPERTS)])
            log_shares = np.log(seen[:, dims, frame] / seen.sum(axis=2))
            joint = log_weights + log_shares
            mixed = np.logaddexp.reduce(joint, axis=0)
            total -= float(mixed.sum())
            log_weights = joint - mixed
            for e in range(_NUM_EXPERTS):
                counts[e, dims, contexts[e], frame] += 1
            before = frame
    return total / float(np.log(2))
