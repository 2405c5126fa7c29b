"""Five held-out utterances to hear and to see: as they were spoken, and as the tokenizer gives them back.

    python -m infra.speech16k.make_sounds SHARDS TOKENIZER [OUT]

SHARDS hold LibriSpeech with held-out speakers. OUT (docs/sounds) receives ``<n>-<speaker>-original.flac``,
``-restored.flac`` and ``-spectrograms.png`` of each, and a README that names speakers, licence and tokenizer. The
choice follows from the names alone: one utterance a speaker, 4 to 7 seconds long. Originals that are there stay, so
that golden digits do, too; another tokenizer's restored sounds are replaced.
"""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.speech16k.sources import LIBRISPEECH, source_of
from syllabary.shards import audio, dataset, store
from syllabary.shards.errors import InputError
from syllabary.workers.tokenizer.tokenizer import Tokenizer

OUT = Path(__file__).parent.parent.parent / "docs" / "sounds"
COUNT, SHORTEST_S, LONGEST_S = 5, 4.0, 7.0
WINDOW_S, HOP_S, FLOOR_DB = 0.025, 0.005, 60.0


def chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``COUNT`` index rows of as many LibriSpeech speakers, in an order that follows from their ids.

    Raises:
        InputError: there are not so many.
    """
    fitting = [
        row for row in rows
        if SHORTEST_S <= row["num_samples"] / row["sample_rate"] <= LONGEST_S
        and row["source"].endswith(".flac") and source_of(row["source"]) is LIBRISPEECH
    ]  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(fitting, key=lambda row: hashlib.sha256(row["utterance_id"].encode()).hexdigest()):
        found.setdefault(row["speaker"], row)
    if len(found) < COUNT:
        expected = f"{COUNT} of as many held-out speakers, {SHORTEST_S:g} to {LONGEST_S:g} s long"
        raise InputError("too few utterances to show", value=len(found), expected=expected)
    return list(found.values())[:COUNT]


def write_sounds(rows: list[dict[str, Any]], shards: str, tokenizer: Tokenizer, out: Path) -> list[str]:
    """Write sounds and pictures; returns the lines of the table that shows them."""
    lines = []
    for number, row in enumerate(rows, start=1):
        stem = f"{number}-{row['speaker']}"
        original = out / f"{stem}-original.flac"
        if not original.exists():
            store.publish_bytes(str(original), dataset.read_utterance(shards, row))
        samples, rate = audio.decode(original.read_bytes())
        restored = tokenizer.decode(tokenizer.encode(samples, rate).tokens, len(samples), rate)
        store.publish_bytes(str(out / f"{stem}-restored.flac"), audio.encode_flac(restored, rate))
        store.publish_bytes(str(out / f"{stem}-spectrograms.png"), spectrograms(samples, restored, rate))
        lines.append(
            f"| {number} | LibriSpeech reader {row['speaker']} | [original]({stem}-original.flac) | "
            f"[restored]({stem}-restored.flac) | ![spectrograms]({stem}-spectrograms.png) |"
        )
    return lines


def spectrograms(original: NDArray[np.float32], restored: NDArray[np.float32], rate: int) -> bytes:
    """A PNG of both, side by side on one scale of 60 dB below the original's loudest cell."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    size, hop = round(WINDOW_S * rate), round(HOP_S * rate)
    levels = [_decibels(wave, size, hop) for wave in (original, restored)]
    loudest = float(levels[0].max())
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.4), sharey=True, layout="constrained")
    for axis, level, title in zip(axes, levels, ("original", "restored"), strict=True):
        extent = (0, len(original) / rate, 0, rate / 2000)
        axis.imshow(
            level, origin="lower", aspect="auto", cmap="magma", extent=extent, vmin=loudest - FLOOR_DB, vmax=loudest
        )
        axis.set(title=title, xlabel="s")
    axes[0].set_ylabel("kHz")
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=80)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    return small.getvalue()


def _decibels(wave: NDArray[np.float32], size: int, hop: int) -> NDArray[np.float64]:
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, size // 2), size)[::hop] * np.hanning(size)
    return 10 * np.log10(np.abs(np.fft.rfft(frames)).T ** 2 + 1e-10)


_PAGE = """# Five sounds

Held-out speakers: no training of `{uri}` has heard them. Made by `python -m infra.speech16k.make_sounds`; encoder
`{encoder}`, decoder `{decoder}`. Both spectrograms of a row share one scale.

| | speaker | original | restored | |
| --- | --- | --- | --- | --- |
{lines}

## Licence

The originals are utterances of {corpus}, {licence}
(https://creativecommons.org/licenses/by/4.0/): {credit}.
They were cut at pauses and stored as FLAC. The restored sounds are derived from them and come under the same licence.
"""


def page_of(lines: list[str], tokenizer: Tokenizer, uri: str) -> str:
    """The README beside the sounds."""
    return _PAGE.format(
        uri=uri,
        encoder=tokenizer.encoder_digest[:16],
        decoder=tokenizer.decoder_digest[:16],
        lines="\n".join(lines),
        corpus=LIBRISPEECH.name,
        licence=LIBRISPEECH.licence,
        credit=LIBRISPEECH.credit,
    )


def main() -> int:
    """Write the sounds; 2 for a call that is no such call."""
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    shards, uri, *place = sys.argv[1:]
    out = Path(place[0]) if place else OUT
    tokenizer = Tokenizer.load(uri)
    rows = chosen(dataset.read_index(shards, splits=["valid", "test"]).to_pylist())
    lines = write_sounds(rows, shards, tokenizer, out)
    store.publish_bytes(str(out / "README.md"), page_of(lines, tokenizer, uri).encode())
    print(f"{out}: {len(lines)} utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
