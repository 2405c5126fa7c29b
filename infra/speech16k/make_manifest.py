"""Manifests of the speech that ``speech16k`` is trained on and judged by.

    python infra/speech16k/make_manifest.py SPEECH_TRAIN SPEECH OUT

SPEECH_TRAIN holds ``<speaker>/<speaker>.ogg``, SPEECH LibriSpeech and a few others in LibriLight's layout. OUT receives
``train.jsonl`` (both) and ``eval.jsonl`` (SPEECH alone, which has transcripts). A LibriSpeech reader is ``ls<n>`` in
the one and ``<n>`` in the other: both lines name the speaker ``<n>``, so that whoever is held out is held out of both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_NOT_LIBRISPEECH = "88"  # speakers of SPEECH whose names begin so come from other corpora


def lines_of(speech_train: Path, speech: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Manifest lines of the training speech, and of the LibriSpeech part of ``speech``."""
    opus = [
        {"path": str(path.resolve()), "speaker": path.parent.name.removeprefix("ls")}
        for path in sorted(speech_train.glob("*/*.ogg"))
    ]
    flac = [
        {"path": str(path.resolve()), "speaker": path.relative_to(speech).parts[0]}
        for path in sorted(speech.rglob("*.flac"))
        if not path.relative_to(speech).parts[0].startswith(_NOT_LIBRISPEECH)
    ]
    return opus + flac, flac


def main() -> int:
    """Write both manifests; 2 for a call that is no such call."""
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    speech_train, speech, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in zip(("train", "eval"), lines_of(speech_train, speech), strict=True):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(f"{out / name}.jsonl: {len(lines)} recordings of {len({line['speaker'] for line in lines})} speakers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
