"""Measure whether the decoder uses the tokens: the loss with the right ones, and with three kinds of wrong ones.

    shuffled    the clip's own frames in another order, none of them where it was
    other       the tokens of another utterance, from its start on, repeated where it is shorter
    constant    in every frame the digits that are the most common of their dim

    gain = 1 - loss(right) / least of loss(wrong)

All four are measured on the same clips, the first ones held out: each costs as much as a whole validation of them.
A decoder that gives the mean spectrum or the place in the clip, whatever its input, has a gain near 0. A wrong kind
that does not exist (clips of one frame, a single clip) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from syllabary.model.codec import Codec, Fsq
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.engine import clips_of_all_ranks, gather_from_ranks, world

RIGHT = "right"


@dataclass(frozen=True)
class Headline:
    """The loss by which a codec is judged: its name, and its mean over a batch's clips from the quantized latents
    [batch, dim, frames] that stand for them."""

    name: str
    loss: Callable[[Tensor, Batch], Tensor]


def tokens_to_try(mine: Sequence[Tensor], levels: int) -> dict[str, list[Tensor]]:
    """The digits [frames, dim] of this rank's clips under each kind's name, the right ones under ``RIGHT``. Collective.

    Args:
        mine: uint8 digits of this rank's clips.
        levels: of a digit.
    """
    everyone, places = clips_of_all_ranks(mine)
    kinds = {RIGHT: list(mine), "constant": constant(mine, everyone, levels)}
    if any(len(clip) > 1 for clip in everyone):
        kinds["shuffled"] = [shuffled(clip, place) for place, clip in zip(places, mine, strict=True)]
    if len(everyone) > 1:
        kinds["other"] = others(mine, everyone, places)
    return kinds


def shuffled(digits: Tensor, seed: int) -> Tensor:
    """The frames [frames, dim] in one random cycle (Sattolo 1986): none stays, unless there is only one."""
    generator, order = torch.Generator().manual_seed(seed), list(range(len(digits)))
    for last in range(len(order) - 1, 0, -1):
        chosen = int(torch.randint(last, (), generator=generator))
        order[last], order[chosen] = order[chosen], order[last]
    return digits[order]


def others(mine: Sequence[Tensor], everyone: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    """For each of my clips the digits of the one after it, at my clip's length; ``places`` are mine in ``everyone``."""
    digits = []
    for place, clip in zip(places, mine, strict=True):
        other = everyone[(place + 1) % len(everyone)]
        digits.append(other[torch.arange(len(clip)) % len(other)])
    return digits


def constant(mine: Sequence[Tensor], everyone: Sequence[Tensor], levels: int) -> list[Tensor]:
    """My clips with the most common digit of each dim in every frame."""
    counts = sum((clip[..., None] == torch.arange(levels)).sum(dim=0) for clip in everyone)
    common = counts.argmax(dim=-1).to(torch.uint8)  # type: ignore[union-attr]
    return [common.expand(len(clip), -1) for clip in mine]


def try_tokens(
    headline: Headline,
    fsq: Fsq,
    kinds: Mapping[str, Sequence[Tensor]],
    batches: Sequence[Batch],
    device: torch.device,
    num_clips: int,
) -> dict[str, float]:
    """The headline with each kind of tokens, ``NAME_right``, ``NAME_shuffled``, ..., on the first clips. Collective.

    Args:
        headline: the loss.
        fsq: of the codec.
        kinds: digits of this rank's clips by kind, as ``tokens_to_try`` gives them.
        batches: this rank's held-out clips.
        device: of the codec.
        num_clips: how many are tried over all ranks, in whole batches.
    """
    means, first = Means([f"{headline.name}_{kind}" for kind in kinds]), 0
    for batch in batches:
        if first >= -(-num_clips // world()[1]):
            break
        batch, chosen = batch.to(device), slice(first, first + len(batch.slots))
        values = [digits_to_values(fsq, tokens[chosen], device) for tokens in kinds.values()]
        means.add([headline.loss(one, batch) for one in values], batch)
        first = chosen.stop
    return means.over_ranks()


def token_gain(losses: Mapping[str, float]) -> dict[str, float]:
    """The losses that ``try_tokens`` gives, and their ``token_gain``, which is left out where no wrong kind exists."""
    right = next(value for name, value in losses.items() if name.endswith(f"_{RIGHT}"))
    wrong = [value for name, value in losses.items() if not name.endswith(f"_{RIGHT}")]
    return dict(losses) | ({"token_gain": 1 - right / max(min(wrong), 1e-12)} if wrong else {})


class Means:
    """Means of losses over clips, weighted by their samples."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._sums = names, torch.zeros(len(names) + 1, dtype=torch.float64)

    def add(self, losses: Sequence[Tensor], batch: Batch) -> None:
        """The means of a batch, in the order of the names."""
        count = float(batch.num_samples.sum())
        self._sums += torch.tensor([*(float(loss) * count for loss in losses), count], dtype=torch.float64)

    def over_ranks(self) -> dict[str, float]:
        """The means over all clips of all ranks, by name. Collective."""
        *totals, count = sum(gather_from_ranks(self._sums)).tolist()  # type: ignore[union-attr]
        return {name: total / count for name, total in zip(self._names, totals, strict=True)}


def digits_to_values(fsq: Fsq, digits: Sequence[Tensor], device: torch.device) -> Tensor:
    """Quantized latents [batch, dim, frames] of the digits [frames, dim] of each clip."""
    padded = torch.nn.utils.rnn.pad_sequence([clip.to(device) for clip in digits], batch_first=True)
    return fsq.values_of(padded.transpose(1, 2))


def decode(codec: Codec, values: Tensor, batch: Batch) -> Tensor:
    """Speech of a batch's clips from quantized latents, as long as the batch [batch, samples]."""
    generated: Tensor = codec.generator(values, batch.num_samples)
    return generated[:, : batch.waveform.shape[-1]].float()
