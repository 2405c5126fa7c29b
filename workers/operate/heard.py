"""Collect the sounds of a run: held-out utterances as they were spoken, and as tokenizers give them back.

Below ``OUT/before`` lies what the tokenizer that the run began with makes of them: their tokens, and their sound again.
"""

from __future__ import annotations

import io
from typing import Any

import pyarrow.parquet as pq

from syllabary.shards import audio, dataset
from syllabary.shards.errors import InputError
from syllabary.shards.store import Folder
from syllabary.workers.control.run_layout import PipelineLayout
from syllabary.workers.report.summary_page import Heard, heard
from syllabary.workers.tokenizer.encode_files import token_file_of
from syllabary.workers.tokenizer.token_file import SUFFIX, write_token_file
from syllabary.workers.tokenizer.tokenizer import Tokenizer

BEFORE = "before"
MOST, MAX_S = 6, 15.0  # what a page carries
ORIGINAL, TRAINED = "original", "this run's tokenizer"


def listen(run: PipelineLayout, begun_with: str | None) -> list[Heard]:
    """Collect the first restored utterances of at most ``MAX_S`` seconds, with every sound that there is of each.

    Args:
        run: whose restored audio it is.
        begun_with: URI of the tokenizer that it began with, to be heard beside its own; None for none.
    """
    restored = Folder(run.restored)
    manifest = io.BytesIO(restored.read("manifest.parquet"))
    rows = [row for row in pq.read_table(manifest).to_pylist() if row["file"] is not None]
    short = [row for row in rows if row["num_samples"] <= MAX_S * row["sample_rate"]][:MOST]
    tokenizer = None if begun_with is None else Tokenizer.load(begun_with)
    entries = dataset.find_utterances(run.shards, [row["utterance_id"] for row in short])
    utterances = []
    for row in short:
        original = dataset.read_utterance(run.shards, entries[row["utterance_id"]])
        sounds = {ORIGINAL: original}
        if tokenizer is not None:
            sounds[f"{begun_with}, as it is"] = _before(run, tokenizer, row, original)
        sounds[TRAINED] = restored.read(row["file"])
        utterances.append(heard(row["utterance_id"], row["speaker"], sounds))
    return utterances


def _before(run: PipelineLayout, tokenizer: Tokenizer, row: dict[str, Any], original: bytes) -> bytes:
    """Tokens of an utterance, and the sound that they give, both published; returns the sound as FLAC."""
    before = Folder(run.root) / BEFORE
    samples, rate = audio.decode(original)
    tokens = token_file_of(tokenizer, samples, rate)
    write_token_file(before.join(row["utterance_id"] + SUFFIX), tokens)
    sound = audio.encode_flac(tokenizer.decode(tokens.tokens, tokens.num_samples, rate), rate)
    before.publish(row["utterance_id"] + ".flac", sound)
    return sound


def tokenizer_begun_with(claim: dict[str, Any]) -> str | None:
    """URI of the tokenizer that a run's claim says it began with; None where it was none, or a run.

    Raises:
        InputError: another tokenizer is there now.
    """
    init = claim["inputs"].get("init")
    if not isinstance(init, dict) or init["kind"] != "tokenizer":
        return None
    uri = str(init["uri"])
    digests = Tokenizer.load(uri).digests
    if (digests.encoder, digests.decoder) != (init["encoder_digest"], init["decoder_digest"]):
        raise InputError("the tokenizer that the run began with has changed", value=uri, fix="run into another --out")
    return uri
