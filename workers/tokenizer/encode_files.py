"""``syllabary encode FILE…``: audio files to token files of the same names, ``.tokens.safetensors``."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import store
from syllabary.shards.errors import ConflictError, FormatError, InputError, NotFoundError
from syllabary.shards.ingest.decoding.whole import Whole, decode_whole
from syllabary.shards.ingest.recordings import RecordingError
from syllabary.workers.control.jobs import EncodeJob
from syllabary.workers.control.log import Progress, say
from syllabary.workers.tokenizer.checks import checked_waveform
from syllabary.workers.tokenizer.token_file import SUFFIX, TokenFile, encode_token_file, read_token_file
from syllabary.workers.tokenizer.tokenizer import Tokenizer


def encode_files(job: EncodeJob) -> dict[str, Any]:
    """Encode every file; returns the token files.

    Every file is read before the first one is encoded, and again when its turn comes, so that nothing is written when
    any of them is no speech, and not all of them are held at once. What comes out of a file is held against what it
    promises, as the ingest does: all links of a chain are encoded, and what was mended is reported and in ``notes``.

    Raises:
        FormatError: a file is not audio, damaged, or ends before or behind what it promises; names the file.
        InputError: it holds samples that no tokenizer takes; names the file.
        ConflictError: other tokens are where its own would go.
    """
    targets = target_uris(job.files, job.out, SUFFIX)
    require_known(job.tokenizer)
    for uri in job.files:
        _require_file(uri)  # before seconds of loading
    tokenizer = Tokenizer.load(job.tokenizer, decoder=False, device=job.device)
    lengths = [(len(audio.samples), audio.rate) for audio in map(_read, job.files)]
    for target, length in zip(targets, lengths, strict=True):
        _require_own_tokens(target, (tokenizer.encoder_digest, *length))
    progress = Progress("encode", sum(num_samples / rate for num_samples, rate in lengths), "s of audio")
    written = []
    for uri, target in zip(job.files, targets, strict=True):
        audio = _read(uri)
        for note in audio.notes:
            say("encode", f"{uri}: {note}")
        content = token_file_of(tokenizer, audio.samples, audio.rate)
        store.publish_new(target, encode_token_file(content))
        told = {"tokens": target, "num_frames": len(content.tokens), "num_samples": content.num_samples}
        written.append(told | ({"notes": list(audio.notes)} if audio.notes else {}))
        progress.add(len(audio.samples) / audio.rate)
    progress.finish()
    return {"files": written, "encoder_digest": tokenizer.encoder_digest}


def token_file_of(tokenizer: Tokenizer, wav: NDArray[np.float32], sample_rate: int) -> TokenFile:
    """A waveform [num_samples] as the content of a token file. Raises InputError as ``Tokenizer.encode`` does."""
    encoded = tokenizer.encode(wav, sample_rate)
    digest = tokenizer.encoder_digest
    return TokenFile(encoded.tokens, encoded.salience, encoded.num_samples, sample_rate, encoded.margin, digest)


def _require_own_tokens(target: str, own: tuple[str, int, int]) -> None:
    """Before anything is encoded: what is there may only be tokens of this encoder, this length and this rate."""
    try:
        found = read_token_file(target)
    except NotFoundError:
        return
    except FormatError as error:
        raise store.another_file(target) from error
    if (found.encoder_digest, found.num_samples, found.sample_rate) != own:
        raise store.another_file(target)


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


def require_known(tokenizer_uri: str) -> None:
    """A builtin of that name ships; what any other URI names is found out when it is loaded. Raises InputError."""
    if store.is_builtin(tokenizer_uri):
        store.local_path(tokenizer_uri)


def _require_file(uri: str) -> None:
    try:
        store.file_entry(uri)
    except NotFoundError:
        if store.is_folder(uri):
            fix = "give the files in it, or make a corpus of it with `syllabary shard` and `syllabary tokenize`"
            raise InputError("a folder instead of an audio file", value=uri, fix=fix) from None
        raise


def _read(uri: str) -> Whole:
    """Waveform and sample rate of a file that can be encoded, and what of it was mended."""
    with tempfile.TemporaryDirectory(prefix="syllabary-") as folder:
        try:
            audio = decode_whole(store.fetch_to(uri, Path(folder), "audio"))
            return audio._replace(samples=checked_waveform(audio.samples, audio.rate))
        except RecordingError as error:
            raise FormatError(f"{uri}: {error}") from error
        except InputError as error:
            raise InputError(f"{uri}: {error}") from error
