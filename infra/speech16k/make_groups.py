"""Manifests of other kinds of speech, to say on the card what the tokenizer does to them.

    python -m infra.speech16k.make_groups SPEECH_TRAIN SPEECH DEMO OUT [RECIPE]

OUT receives ``nonnative.jsonl`` (speechocean762: Mandarin speakers reading English, half of them children),
``<language>.jsonl`` for each language of the demo speech (`syllabary fetch-demo`), and ``noise.jsonl`` with its audio:
the LibriSpeech readers of SPEECH that RECIPE (speech16k) holds out, in white noise 10 dB below the speech.
``noise.tsv`` and ``eval.tsv`` are transcripts under the paths of ``noise.jsonl`` and of make_manifest's ``eval.jsonl``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.speech16k.make_manifest import lines_of
from syllabary.shards import audio, store
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.splits import split_of
from syllabary.workers.recipes.named import resolve

SNR_DB = 10.0


def nonnative(lines: list[dict[str, str]]) -> list[dict[str, str]]:
    """The lines of speechocean762."""
    return [line for line in lines if line["speaker"].startswith("so")]


def languages(demo: Path) -> dict[str, list[dict[str, str]]]:
    """The demo speech, ``<speaker>/<language>/...``, by its languages."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted(demo.glob("*/*/**/*.flac")):
        speaker, language = path.relative_to(demo).parts[:2]
        line = {"path": str(path.resolve()), "speaker": speaker, "language": language}
        found.setdefault(language, []).append(line)
    return found


def in_noise(wave: NDArray[np.float32], name: str, snr_db: float = SNR_DB) -> NDArray[np.float32]:
    """The wave [num_samples] with white noise ``snr_db`` below its mean power, and its peak within full scale."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    level = np.sqrt(np.mean(np.square(wave, dtype=np.float64))) * 10 ** (-snr_db / 20)
    noisy = wave + level * np.random.default_rng(seed).standard_normal(len(wave))
    return (noisy / max(1.0, float(np.abs(noisy).max()))).astype(np.float32)


def write_noise(lines: list[dict[str, str]], out: Path, config: IngestConfig) -> dict[str, str]:
    """Noisy FLAC of the lines whose speakers are held out; returns the new path of each old one."""
    paths = {}
    for line in lines:
        if split_of(line["speaker"], line["path"], config) != "train":
            target = out / "noise" / line["speaker"] / Path(line["path"]).name
            if not target.exists():
                samples, rate = audio.decode(Path(line["path"]).read_bytes())
                store.publish_bytes(str(target), audio.encode_flac(in_noise(samples, target.name), rate))
            paths[line["path"]] = str(target.resolve())
    return paths


def transcripts(speech: Path, paths: dict[str, str]) -> list[dict[str, str]]:
    """The rows of SPEECH/transcripts.tsv for the recordings in ``paths``, under their new names."""
    with (speech / "transcripts.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = ((paths.get(str((speech / row["path"]).resolve())), row) for row in rows)
    return [{**row, "path": path} for path, row in found if path is not None]


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Rows as a tab-separated table with a header."""
    names = ("path", "start_sec", "end_sec", "text")
    lines = ["\t".join(names), *("\t".join(row[name] for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def main() -> int:
    """Write the manifests; 2 for a call that is no such call."""
    if len(sys.argv) not in (5, 6):
        print(__doc__, file=sys.stderr)
        return 2
    speech_train, speech, demo, out = map(Path, sys.argv[1:5])
    held_out = resolve(sys.argv[5] if len(sys.argv) > 5 else "speech16k").ingest
    out.mkdir(parents=True, exist_ok=True)
    train, flac = lines_of(speech_train, speech)
    paths = write_noise(flac, out, held_out)
    noisy = [{**line, "path": paths[line["path"]]} for line in flac if line["path"] in paths]
    for name, lines in {"nonnative": nonnative(train), "noise": noisy, **languages(demo)}.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(f"{out / name}.jsonl: {len(lines)} recordings of {len({line['speaker'] for line in lines})} speakers")
    write_table(out / "noise.tsv", transcripts(speech, paths))
    write_table(out / "eval.tsv", transcripts(speech, {line["path"]: line["path"] for line in flac}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
