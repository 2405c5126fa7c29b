"""A tokenizer whose weights are the mean of several that went on from one (Wortsman et al. 2022, model soups).

    python -m infra.speech16k.average_tokenizers OUT TOKENIZER TOKENIZER [TOKENIZER ...]

Trainings of one beginning end in one basin, and the middle of it is often lower than where each of them stopped; of
those that began apart the mean is nothing. OUT is to begin a training with: the decoder must learn what its tokens are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from syllabary.shards.errors import InputError
from syllabary.workers.tokenizer.directory import Digests, load_mel_head, load_tokenizer, save_tokenizer


def mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each weight, in fp32; what is no number to average is that of the first."""
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).float()
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


def average(out: str, tokenizers: Sequence[str]) -> Digests:
    """Write the mean of ``tokenizers`` to ``out``.

    Raises:
        InputError: fewer than two, one without a decoder, or tokenizers of different models.
    """
    found = [load_tokenizer(uri) for uri in tokenizers]
    if len(found) < 2:
        raise InputError("tokenizers to average", value=len(found), expected="two or more")
    for uri, files in zip(tokenizers, found, strict=True):
        if files.config != found[0].config:
            raise InputError("a tokenizer of another model", value=uri, expected=f"the model of {tokenizers[0]}")
        if files.decoder_state is None:
            raise InputError("a tokenizer without a decoder", value=uri, expected="weights of all of it")
    heads = [load_mel_head(uri) for uri in tokenizers]
    return save_tokenizer(
        out, found[0].config, mean_of([dict(files.encoder_state) for files in found]),
        mean_of([dict(files.decoder_state or {}) for files in found]), recipe=found[0].recipe,
        mel_head=mean_of(heads) if all(heads) else None,
    )  # fmt: skip


def main() -> int:
    """Average them and print the digests."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out")
    parser.add_argument("tokenizers", nargs="+")
    given = parser.parse_args()
    digests = average(given.out, given.tokenizers)
    print(f"{given.out}: encoder {digests.encoder[:16]}, decoder {digests.decoder[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
