"""`python -m syllabary.workers export`: the tokenizer directory of a complete stage-2 run, or a tokenizer as graphs."""

from __future__ import annotations

from typing import Any

from syllabary.shards import outputs
from syllabary.shards.errors import InputError
from syllabary.shards.store import Folder
from syllabary.workers.control.jobs import ExportJob
from syllabary.workers.control.log import say
from syllabary.workers.recipes.beginning import CONFIG_FILE
from syllabary.workers.recipes.recipe import validate


def export(job: ExportJob) -> dict[str, Any]:
    """Write what the job names and return its digests.

    Raises:
        InputError: a directory takes ``codec``, graphs take ``tokenizer``; or as below.
        ExtraError, ConflictError: see ``syllabary.workers.portable.export_graphs`` and below.
    """
    form = job.output_format
    wanted, other = ("codec", "tokenizer") if form == "directory" else ("tokenizer", "codec")
    if getattr(job, wanted) is None or getattr(job, other) is not None:
        given = f"--{other}" if getattr(job, other) is not None else "neither"
        raise InputError(f"export --format {form} takes --{wanted}", value=given, fix=f"give --{wanted} alone")
    if form == "directory":
        return _export_directory(job, str(job.codec))
    from syllabary.workers.portable.export_graphs import export_graphs

    return export_graphs(str(job.tokenizer), job.out, form)


def _export_directory(job: ExportJob, codec: str) -> dict[str, Any]:
    """Write encoder and decoder of the run at ``codec`` as a tokenizer directory; returns its digests.

    Raises:
        InputError: the run is not complete.
        FormatError, NotFoundError: it is no stage-2 run.
        ConflictError: another tokenizer is already at ``job.out``.
    """
    from safetensors.torch import load as from_safetensors

    from syllabary.workers.tokenizer.directory import save_tokenizer
    from syllabary.workers.training.initial_weights import CODEC_FILE, HEAD_FILE

    outputs.read_claim(codec, "codec")
    if outputs.read_done(codec) is None:
        raise InputError(
            "the stage-2 run is not complete", value=codec, fix="run `syllabary train-codec` again: it resumes"
        )
    run = Folder(codec)
    recipe = validate(run.read_json(CONFIG_FILE))
    state = from_safetensors(run.read(CODEC_FILE))
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    decoder = {k.removeprefix("generator."): v for k, v in state.items() if k.startswith("generator.")}
    digests = save_tokenizer(
        job.out,
        recipe.model,
        encoder,
        decoder,
        recipe=recipe.model_dump(mode="json"),
        stored_as=job.dtype,
        mel_head=from_safetensors(run.read(HEAD_FILE)) if run.exists(HEAD_FILE) else None,
    )
    say("export", f"tokenizer {digests.encoder[:12]} (sound {digests.decoder[:12]}) is at {job.out}")
    return {"out": job.out, "encoder_digest": digests.encoder, "decoder_digest": digests.decoder}
