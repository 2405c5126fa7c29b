"""``syllabary encode FILE…``: audio files to token files of the same names, ``.tokens.safetensors``."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import store
from syllabary.shards.audio import decode as decode_audio
from syllabary.shards.errors import ConflictError, FormatError, InputError
from syllabary.workers.control.jobs import EncodeJob
from syllabary.workers.control.progress import Progress
from syllabary.workers.tokenizer.checks import checked_waveform
from syllabary.workers.tokenizer.token_file import SUFFIX, TokenFile, write_token_file
from syllabary.workers.tokenizer.tokenizer import Tokenizer


def encode_files(job: EncodeJob) -> dict[str, Any]:
    """Encode every file; returns the token files.

    Every file is read before the first one is encoded, and again when its turn comes, so that nothing is written when
    any of them is no speech, and not all of them are held at once.

    Raises:
        FormatError, InputError: a file is not audio, or holds samples that no tokenizer takes; names the file.
    """
    targets = target_uris(job.files, job.out, SUFFIX)
    tokenizer = Tokenizer.load(job.tokenizer, decoder=False, device=job.device)
    durations = [len(wav) / rate for wav, rate in map(_read, job.files)]
    progress = Progress("encode", sum(durations), "s of audio")
    written = []
    for uri, target in zip(job.files, targets, strict=True):
        wav, rate = _read(uri)
        content = token_file_of(tokenizer, wav, rate)
        write_token_file(target, content)
        written.append({"tokens": target, "num_frames": len(content.tokens), "num_samples": content.num_samples})
        progress.add(len(wav) / rate)
    progress.finish()
    return {"files": written, "encoder_digest": tokenizer.encoder_digest}


def token_file_of(tokenizer: Tokenizer, wav: NDArray[np.float32], sample_rate: int) -> TokenFile:
    """A waveform [num_samples] as the content of a token file. Raises InputError as ``Tokenizer.encode`` does."""
    found = tokenizer.encode(wav, sample_rate)
    digest = tokenizer.encoder_digest
    return TokenFile(found.tokens, found.salience, found.num_samples, sample_rate, found.margin, digest)


def target_uris(files: tuple[str, ...], out: str | None, suffix: str) -> list[str]:
    """Where each output goes: beside its input, or below ``out``; never two to one name.

    Raises:
        InputError: no files given.
        ConflictError: two inputs would give one output.
    """
    if not files:
        raise InputError("no files given", expected="one file or more")
    targets = []
    for uri in files:
        path = PurePosixPath(store.normalize(uri).replace("://", ":/"))
        name = path.name.removesuffix(SUFFIX) if path.name.endswith(SUFFIX) else path.stem
        folder = out if out is not None else store.normalize(uri).rpartition("/")[0] or "/"
        target = store.join(folder, name + suffix)
        if target in targets:
            raise ConflictError(
                "two inputs would become one output", value=target, fix="run them into separate --out folders"
            )
        targets.append(target)
    return targets


def _read(uri: str) -> tuple[NDArray[np.float32], int]:
    """Waveform and sample rate of a file that can be encoded."""
    try:
        samples, rate = decode_audio(store.read_bytes(uri))
        return checked_waveform(samples, rate), rate
    except (FormatError, InputError) as error:
        raise type(error)(f"{uri}: {error}") from error
