"""``syllabary listen ARCHIVE``: the page on 127.0.0.1, from the moment that it can sound to Ctrl-C."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import uvicorn

from syllabary.shards.about.origin import Origin
from syllabary.shards.errors import InputError
from syllabary.workers.control.jobs import ListenJob
from syllabary.workers.control.log import say
from syllabary.workers.listen.catalogue import Catalogue
from syllabary.workers.listen.page import Shown, application
from syllabary.workers.listen.takes import (
    ORIGINAL,
    RESTORED,
    Take,
    from_folder,
    from_shards,
    restored,
    tokenizer_of,
)
from syllabary.workers.listen.trying import Tries
from syllabary.workers.tokenizer.tokenizer import Tokenizer

ADDRESS = "127.0.0.1"


def listen(job: ListenJob) -> dict[str, Any]:
    """Serve the page until Ctrl-C; returns where it was.

    Raises:
        NotFoundError, FormatError, DamageError: there is no archive, no such tokenizer, no shards, no folder.
        InputError: a tokenizer of another encoder, two places of originals, or a port that is taken.
    """
    shown = prepare(job)
    with listening(job.port) as listener:
        url = f"http://{ADDRESS}:{listener.getsockname()[1]}/"
        if shown.missing:
            say("listen", f"note: {shown.missing}")
        say("listen", f"open {url} in a browser on this machine; Ctrl-C ends it")
        try:
            server(shown).run(sockets=[listener])
        except KeyboardInterrupt:
            say("listen", "ended")
    return {"text": f"listened at {url}"}


def server(shown: Shown) -> uvicorn.Server:
    """The server of the page: one process, which believes no header about who asks."""
    config = uvicorn.Config(
        application(shown), proxy_headers=False, server_header=False, log_level="warning", lifespan="off",
        ws="none", timeout_graceful_shutdown=1,
    )  # fmt: skip
    return uvicorn.Server(config)


def prepare(job: ListenJob) -> Shown:
    """The archive opened, its tokenizer found, loaded and warm, the originals listed. Raises as :func:`listen`."""
    if job.shards is not None and job.audio_root is not None:
        raise InputError("originals in two places", value=(job.shards, job.audio_root), fix="give one of them")
    catalogue = Catalogue(job.archive)
    form = catalogue.reader.format
    uri, missing = tokenizer_of(job.archive, form, job.tokenizer)
    takes, tries = dict[str, Take](), None
    if uri:
        tokenizer, thread = Tokenizer.load(uri), ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        thread.submit(_warm, tokenizer).result()
        takes[RESTORED], tries = restored(tokenizer, catalogue, thread), Tries(tokenizer, form, thread)
    if job.shards is not None:
        takes[ORIGINAL] = from_shards(job.shards)
    elif job.audio_root is not None:
        takes[ORIGINAL] = from_folder(job.audio_root)
    title = Origin.read(job.archive).title or job.archive.rstrip("/").rpartition("/")[2]
    return Shown(title, catalogue, takes, tries, uri, missing)


def _warm(tokenizer: Tokenizer) -> None:
    """Decode a few frames of nothing: the first sound in a thread takes longer, and nobody shall wait for it."""
    for num_frames in (4, tokenizer.framing.window_frames):
        tokens = np.zeros((num_frames, tokenizer.packing.num_groups), np.uint16)
        tokenizer.decode(tokens, num_frames * tokenizer.framing.hop_length)


def listening(port: int) -> socket.socket:
    """A socket of 127.0.0.1 alone. Raises InputError: the port is taken, or not allowed."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        fix = "give --port another number, or 0 for any that is free"
        raise InputError(f"the port cannot be had ({error.strerror})", value=port, fix=fix) from error
    return listener
