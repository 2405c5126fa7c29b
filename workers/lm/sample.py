"""``lm-sample``: let a language model speak; the tokenizer decodes what it draws to sound."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from syllabary.shards import audio, outputs
from syllabary.shards.errors import ConflictError, InputError
from syllabary.shards.store import Folder
from syllabary.workers.control.jobs import LmSampleJob
from syllabary.workers.control.log import Progress
from syllabary.workers.lm.blocks_data import Vocabulary
from syllabary.workers.lm.directory import load_model
from syllabary.workers.lm.speech_lm import SpeechLm
from syllabary.workers.tokenizer.checks import checked_device
from syllabary.workers.tokenizer.tokenizer import Tokenizer

STAGE = "lm-sample"


class ValidIds(LogitsProcessor):
    """Mask all logits but those of ids that the next place of a frame can hold; ``num_before`` ids come first."""

    def __init__(self, vocabulary: Vocabulary, num_before: int = 1) -> None:
        self._sizes, self._offset = vocabulary.packing.position_sizes, vocabulary["id_offset"]
        self._num_before = num_before

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The masked scores [batch, ids] of the id that follows ``input_ids`` [batch, position]."""
        place = (input_ids.shape[1] - self._num_before) % len(self._sizes)
        first, stop = self._offset, self._offset + self._sizes[place]
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, first:stop] = scores[:, first:stop]
        return allowed


def lm_sample(job: LmSampleJob) -> dict[str, Any]:
    """Write samples as ``samples/NNN.flac`` with their tokens; equal seeds give equal samples on one kind of machine.

    Raises:
        NotFoundError: there is no such model or tokenizer.
        ConflictError: the tokenizer is not the one whose tokens the model has learned, or ``out`` holds samples of
            another model.
        InputError: the model knows speech only after its text, or this machine has no such device.
    """
    device = checked_device(job.device)
    loaded, tokenizer = load_model(job.model, device), Tokenizer.load(job.tokenizer)
    expected = str(loaded.vocabulary.metadata["encoder_digest"])
    if tokenizer.encoder_digest != expected:
        what, fix = "tokenizer of another encoder", "use the tokenizer of the model's archive"
        raise ConflictError(what, value=tokenizer.encoder_digest[:16], expected=expected[:16], fix=fix)
    if loaded.vocabulary.metadata.get("interleave") == "text_to_speech":
        what, fix = "a model that speaks only after a text", "train one on blocks without --interleave, or with `both`"
        raise InputError(what, value=job.model, fix=fix)
    inputs = {"model": loaded.weights_digest, "encoder_digest": expected, "decoder_digest": tokenizer.decoder_digest}
    config = job.model_dump(mode="json", exclude={"model", "tokenizer", "out", "device"})
    outputs.claim(job.out, "report", inputs=inputs, config=config)
    num_frames = max(1, round(job.duration_s * loaded.vocabulary.frames_per_s))
    num_samples = num_frames * tokenizer.framing.hop_length
    progress = Progress(STAGE, job.num_samples, "samples")
    out, files = Folder(job.out), []
    for number in range(job.num_samples):
        torch.manual_seed(job.seed + number)
        tokens = sample_tokens(loaded.model, loaded.vocabulary, num_frames, job.temperature, job.top_p)
        sound = tokenizer.decode(tokens, num_samples, packing=loaded.vocabulary.packing)
        files.append(f"samples/{number:03}.flac")
        out.publish(files[-1], audio.encode(sound, tokenizer.sample_rate, "flac", tokenizer.comment))
        told = {"packing": str(loaded.vocabulary.packing), "tokens": tokens.reshape(-1).tolist()}
        out.publish(f"samples/{number:03}.json", outputs.canonical_json(told))
        progress.add(1)
    progress.finish()
    result = {"files": files, "duration_s": num_samples / tokenizer.sample_rate}
    outputs.mark_done(job.out, result)
    return result


def sample_tokens(
    model: SpeechLm, vocabulary: Vocabulary, num_frames: int, temperature: float, top_p: float
) -> NDArray[np.uint16]:
    """Draw tokens uint16 [num_frames, num_groups] of a new document from the model, with torch's random generator."""
    groups, begin = vocabulary.packing.num_groups, vocabulary.begin
    model.num_before = len(begin) - 1
    start = torch.tensor([begin], device=model.device)
    ids = model.generate(  # type: ignore[misc]
        start,
        attention_mask=torch.ones_like(start),
        max_new_tokens=num_frames * groups,
        min_new_tokens=num_frames * groups,
        do_sample=True,
        temperature=temperature,
        top_p=top_p,
        top_k=0,
        logits_processor=LogitsProcessorList([ValidIds(vocabulary, len(begin))]),
    )
    tokens = (ids[0, len(begin) :] - vocabulary["id_offset"]).cpu().numpy().astype(np.uint16)
    return tokens.reshape(num_frames, groups)
