"""``syllabary encode FILE…``: audio files to token files of the same names, ``.tokens.safetensors``."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from shards import store
from shards.audio import decode as decode_audio
from shards.errors import ConflictError, FormatError, InputError, explain
from workers.job_main import Progress, run_job
from workers.jobs import EncodeJob
from workers.token_file import SUFFIX, TokenFile, write_token_file
from workers.tokenizer import Tokenizer


def encode_files(job: EncodeJob) -> dict[str, Any]:
    """Encode every file; returns the token files. Nothing is written when any input cannot be read."""
    targets = target_uris(job.files, job.out, SUFFIX)
    tokenizer = Tokenizer.load(job.tokenizer, decoder=False, device=job.device)
    waveforms = [_read(uri) for uri in job.files]
    progress = Progress("encode", sum(len(wav) / rate for wav, rate in waveforms), "s of audio")
    written = []
    for (wav, rate), target in zip(waveforms, targets, strict=True):
        found = tokenizer.encode(wav, rate)
        content = TokenFile(
            found.tokens, found.salience, found.num_samples, rate, found.margin, tokenizer.encoder_digest
        )
        write_token_file(target, content)
        written.append({"tokens": target, "num_frames": len(found.tokens), "num_samples": found.num_samples})
        progress.add(len(wav) / rate)
    progress.finish()
    return {"files": written, "encoder_digest": tokenizer.encoder_digest}


def target_uris(files: tuple[str, ...], out: str | None, suffix: str) -> list[str]:
    """Where each output goes: beside its input, or below ``out``; never two to one name.

    Raises:
        InputError: no files given.
        ConflictError: two inputs would give one output.
    """
    if not files:
        raise InputError(explain("no files given", expected="one file or more"))
    targets = []
    for uri in files:
        path = PurePosixPath(store.normalize(uri).replace("://", ":/"))
        name = path.name.removesuffix(SUFFIX) if path.name.endswith(SUFFIX) else path.stem
        folder = out if out is not None else store.normalize(uri).rpartition("/")[0] or "/"
        target = store.join(folder, name + suffix)
        if target in targets:
            raise ConflictError(
                explain("two inputs would become one output", value=target, fix="run them into separate --out folders")
            )
        targets.append(target)
    return targets


def _read(uri: str) -> tuple[Any, int]:
    try:
        return decode_audio(store.read_bytes(uri))
    except FormatError as error:
        raise FormatError(f"{uri}: {error}") from error


if __name__ == "__main__":
    run_job(EncodeJob, encode_files)
