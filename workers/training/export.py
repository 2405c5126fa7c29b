"""`python -m syllabary.workers export`: the tokenizer directory of a complete stage-2 run."""

from __future__ import annotations

from typing import Any

from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError
from syllabary.workers.control.jobs import ExportJob
from syllabary.workers.control.run_verb import say
from syllabary.workers.recipes.beginning import CONFIG_FILE
from syllabary.workers.recipes.recipe import validate


def export(job: ExportJob) -> dict[str, Any]:
    """Write encoder and decoder of the run at ``job.codec`` as a tokenizer directory; returns its digests.

    Raises:
        InputError: the run is not complete.
        FormatError, NotFoundError: it is no stage-2 run.
        ConflictError: another tokenizer is already at ``job.out``.
    """
    from safetensors.torch import load as from_safetensors

    from syllabary.workers.tokenizer.directory import save_tokenizer
    from syllabary.workers.training.initial_weights import CODEC_FILE, HEAD_FILE

    outputs.read_claim(job.codec, "codec")
    if outputs.read_done(job.codec) is None:
        raise InputError(
            "the stage-2 run is not complete", value=job.codec, fix="run `syllabary train-codec` again: it resumes"
        )
    recipe = validate(outputs.read_json(store.join(job.codec, CONFIG_FILE)))
    state = from_safetensors(store.read_bytes(store.join(job.codec, CODEC_FILE)))
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    decoder = {k.removeprefix("generator."): v for k, v in state.items() if k.startswith("generator.")}
    head = store.join(job.codec, HEAD_FILE)
    digests = save_tokenizer(
        job.out,
        recipe.model,
        encoder,
        decoder,
        recipe=recipe.model_dump(mode="json"),
        stored_as=job.dtype,
        mel_head=from_safetensors(store.read_bytes(head)) if store.exists(head) else None,
    )
    say("export", f"tokenizer {digests.encoder[:12]} (sound {digests.decoder[:12]}) is at {job.out}")
    return {"out": job.out, "encoder_digest": digests.encoder, "decoder_digest": digests.decoder}
