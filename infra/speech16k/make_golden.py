"""Golden digits of a builtin tokenizer: what its tokens of a few utterances must be for ever.

    python -m infra.speech16k.make_golden builtin:speech16k [SOUNDS] [OUT]

encodes every ``*-original.flac`` of SOUNDS (docs/sounds) in fp32 on the CPU and writes OUT
(tests/golden/builtin/<name>.json): each frame's digits, and its margin, which is the distance of the nearest digit from
the border to another level. A digit closer than ``NARROW`` is recorded as ``?`` and not held to: it may fall otherwise
on another processor. ``tests/golden/test_builtin_digits.py`` compares with it. It is made once for a tokenizer; another
training gets another name.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import audio
from syllabary.shards.errors import InputError
from syllabary.shards.store import BUILTIN, pretty_json
from syllabary.workers.tokenizer.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent.parent
SOUNDS, FOLDER = ROOT / "docs" / "sounds", ROOT / "tests" / "golden" / "builtin"
NARROW = 1e-5  # latents of one CPU's instruction sets differ by less (infra/benchmarks/studies/instruction_sets.py)
HELD_BY_NOBODY = "?"


def digits_and_margins(tokenizer: Tokenizer, wav: NDArray[np.float32], rate: int) -> tuple[list[str], list[float]]:
    """A text of digits for every frame, ``?`` for one too close to a border, and the smallest margin of the others.

    A margin is the distance of a tanh value from the nearest quantization edge, at most 1 / levels.
    """
    digits = tokenizer.packing.unpack(tokenizer.encode(wav, rate).tokens)
    margins = margins_of(tokenizer.latents(wav, rate), tokenizer.config.fsq.levels)
    told = np.where(margins < NARROW, HELD_BY_NOBODY, digits.astype(str))
    smallest = np.where(margins < NARROW, 1 / tokenizer.config.fsq.levels, margins).min(axis=1)
    return ["".join(frame) for frame in told], [round(float(margin), 7) for margin in smallest]


def margins_of(latents: NDArray[np.float32], levels: int) -> NDArray[np.float64]:
    """Margins [num_frames, num_dims] of latents [num_dims, num_frames]."""
    edges = 2 * np.arange(1, levels) / levels - 1
    bounded = np.tanh(latents.astype(np.float64)).T
    distances: NDArray[np.float64] = np.abs(bounded[..., None] - edges).min(axis=2)
    return distances


def golden_of(tokenizer: Tokenizer, name: str, files: list[Path]) -> dict[str, Any]:
    """The golden digits of some FLAC files. Raises InputError: no files."""
    if not files:
        raise InputError(
            "no sounds to make golden digits of", expected="*-original.flac", fix="run make_sounds.py first"
        )
    utterances = [_utterance(tokenizer, path) for path in files]
    return {
        "tokenizer": name,
        "encoder_digest": tokenizer.encoder_digest,
        "computed_on": tokenizer.computed_on,
        "smallest_margin": min(margin for one in utterances for margin in one["margins"]),
        "utterances": utterances,
    }


def _utterance(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    digits, margins = digits_and_margins(tokenizer, *audio.decode(data))
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "digits": digits, "margins": margins}


def differences(golden: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> list[str]:
    """A line for everything in which the tokenizer is not what its golden digits say; empty where it is."""
    found = []
    if tokenizer.encoder_digest != golden["encoder_digest"]:
        found.append(f"encoder digest {tokenizer.encoder_digest[:16]}, recorded {golden['encoder_digest'][:16]}")
    for wanted in golden["utterances"]:
        now = _utterance(tokenizer, folder / wanted["file"])
        if now["sha256"] != wanted["sha256"]:
            found.append(f"{wanted['file']} is not the recorded sound")
        if len(now["digits"]) != len(wanted["digits"]):
            found.append(f"{wanted['file']}: {len(now['digits'])} frames, recorded {len(wanted['digits'])}")
        frames = zip(wanted["digits"], now["digits"], wanted["margins"], strict=False)
        for frame, (before, after, margin) in enumerate(frames):
            pairs = enumerate(zip(before, after, strict=True))
            changed = [dim for dim, (one, other) in pairs if one != other and HELD_BY_NOBODY not in (one, other)]
            if changed:
                found.append(
                    f"{wanted['file']}, frame {frame}: {len(changed)} of {len(before)} digits differ, the first at dim "
                    f"{changed[0]}; margin when recorded {margin:g}"
                )
    return found


def main() -> int:
    """Write the golden digits; 2 for a call that is no such call."""
    if not 2 <= len(sys.argv) <= 4 or not sys.argv[1].startswith(BUILTIN):
        print(__doc__, file=sys.stderr)
        return 2
    uri, *places = sys.argv[1:]
    name = uri.removeprefix(BUILTIN)
    sounds = Path(places[0]) if places else SOUNDS
    out = Path(places[1]) if len(places) > 1 else FOLDER / f"{name}.json"
    golden = golden_of(Tokenizer.load(uri, decoder=False), name, sorted(sounds.glob("*-original.flac")))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(pretty_json(golden))
    told = [digits for one in golden["utterances"] for digits in one["digits"]]
    print(f"{out}: {len(told)} frames of {len(golden['utterances'])} utterances")
    close = sum(digits.count(HELD_BY_NOBODY) for digits in told)
    margin, count = golden["smallest_margin"], sum(map(len, told))
    print(f"smallest margin {margin:g}; {close} of {count:,} digits are closer to a border and left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
