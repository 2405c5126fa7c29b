"""The same tokenizer with formants raised when tokens are decoded (model/spectral/formants.py): tokens stay.

    python -m infra.speech16k.raise_formants TOKENIZER OUT [--gain 1.0] [--dtype float16]

The decoder's digest becomes another one, the encoder's stays. OUT is a tokenizer directory with a mel head.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from syllabary.shards.errors import InputError
from syllabary.workers.tokenizer.directory import load_mel_head, load_tokenizer, save_tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, change one value, write."""
    parser = argparse.ArgumentParser(description="The same tokenizer with formants raised.")
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--gain", type=float, default=1.0)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    asked = parser.parse_args(arguments)
    files = load_tokenizer(asked.tokenizer)
    if files.config.decoder.kind != "istft":
        raise InputError("a decoder without spectra", value=files.config.decoder.kind, expected="istft")
    assert files.decoder_state is not None
    decoder = files.config.decoder.model_copy(update={"formant_gain": asked.gain})
    config = files.config.model_copy(update={"decoder": decoder})
    recipe = files.recipe | {"model": config.model_dump(mode="json")}
    digests = save_tokenizer(
        asked.out, config, files.encoder_state, files.decoder_state, recipe=recipe, stored_as=asked.dtype,
        mel_head=load_mel_head(asked.tokenizer),
    )  # fmt: skip
    print(f"encoder {digests.encoder}\ndecoder {digests.decoder}")


if __name__ == "__main__":
    main()
