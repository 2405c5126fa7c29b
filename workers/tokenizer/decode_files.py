"""``syllabary decode FILE…``: token files to audio files with exactly the samples and the rate they came from."""

from __future__ import annotations

from typing import Any

from syllabary.shards import store
from syllabary.shards.audio import HEAD_BYTES, encode, is_decoded
from syllabary.shards.errors import ConflictError, InputError, NotFoundError
from syllabary.workers.control.jobs import DecodeJob
from syllabary.workers.control.log import Progress
from syllabary.workers.tokenizer.encode_files import require_known, target_uris
from syllabary.workers.tokenizer.token_file import TokenFile, read_token_file
from syllabary.workers.tokenizer.tokenizer import Tokenizer


def decode_files(job: DecodeJob) -> dict[str, Any]:
    """Decode every token file; returns the audio files, whose comment says what they are (``Tokenizer.comment``).

    Nothing is written when any input cannot be read or decoded, or where a recording lies in the way.

    Raises:
        ConflictError: another encoder made a file, or another file is where the sound would go: the recording, say,
            that the tokens were made of.
        InputError: tokens do not decode; names the file.
    """
    targets = target_uris(job.files, job.out, f".{job.audio_format}")
    require_known(job.tokenizer)
    contents = [read_token_file(uri) for uri in job.files]  # before seconds of loading
    tokenizer = Tokenizer.load(job.tokenizer, device=job.device)
    for uri, content in zip(job.files, contents, strict=True):
        _require_decodable(uri, content, tokenizer)
    for target in targets:
        _require_no_recording(target)
    progress = Progress("decode", sum(c.num_samples / c.sample_rate for c in contents), "s of audio")
    for content, target in zip(contents, targets, strict=True):
        wav = tokenizer.decode(content.tokens, content.num_samples, content.sample_rate)
        store.publish_new(target, encode(wav, content.sample_rate, job.audio_format, tokenizer.comment))
        progress.add(content.num_samples / content.sample_rate)
    progress.finish()
    return {"files": targets, "decoder_digest": tokenizer.decoder_digest}


def _require_no_recording(target: str) -> None:
    """Before anything is decoded; a file that some tokenizer has decoded is compared with the sound itself."""
    try:
        if not is_decoded(store.read_range(target, 0, HEAD_BYTES)):
            raise store.another_file(target)
    except NotFoundError:
        return


def _require_decodable(uri: str, content: TokenFile, tokenizer: Tokenizer) -> None:
    """This tokenizer can decode the token file.

    Raises:
        ConflictError: another encoder made it.
        InputError: its tokens are not those of its length; names the file.
    """
    if content.encoder_digest != tokenizer.encoder_digest:
        raise ConflictError(
            f"tokens of another encoder in {uri}",
            value=content.encoder_digest[:16],
            expected=tokenizer.encoder_digest[:16],
            fix="use the tokenizer that wrote them",
        )
    try:
        tokenizer.require_decodable(content.tokens, content.num_samples, content.sample_rate)
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
