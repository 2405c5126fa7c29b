"""The probe of ``syllabary plan``: how fast this machine does each kind of work, for one worker, with a real recipe.

Each kind of work is the product's own code on synthetic sound: the ingest's ``write_shard``, one engine step of each
stage, the tokenizer's ``encode`` and ``decode``. One worker, one thread; training with one clip at a time on a CPU and
with the recipe's micro-batch on a GPU. Each kind is repeated for its share of the time, once to warm up and at least
once in earnest; what Ray, storage and several workers add or cost is in no rate. On a CPU it takes no more memory than
is free, less :data:`syllabary.workers.cluster.memory.RESERVED_BYTES`, and where that does not do it says so in one
line.
"""

from __future__ import annotations

import gc
import os
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from syllabary.model.codec import Codec
from syllabary.shards.ingest import ingest
from syllabary.shards.ingest.cutting import write_shard
from syllabary.shards.ingest.sources.folder import list_recordings
from syllabary.shards.store import Folder
from syllabary.workers.cluster.memory import RESERVED_BYTES, bounded_memory, free_bytes
from syllabary.workers.control.log import say
from syllabary.workers.forecast.formulas import StageRates, clip_s
from syllabary.workers.recipes.recipe import CodecTrainConfig, Recipe, TrainConfig
from syllabary.workers.tokenizer.directory import save_tokenizer
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from syllabary.workers.training.bottleneck_first import PhasedCodecStage
from syllabary.workers.training.codec import CodecStage
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.data.epoch_order import Slot
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import join_process_group, select_device
from syllabary.workers.training.initial_weights import ENCODER_FILE
from syllabary.workers.training.jepa import JepaStage
from syllabary.workers.training.precision import settle_alone
from syllabary.workers.training.rank import RankSetup

_KINDS = 6
_RECORDING_S = 60.0


def probe(recipe: Recipe, seconds: float) -> StageRates:
    """The rates of one worker of this machine, in about ``seconds`` (more where one unit of work takes longer)."""
    share = seconds / _KINDS
    torch.set_num_threads(1)
    device = select_device(recipe.pretrain)
    _alone_in_a_process_group(device)
    kinds = what_is_probed(recipe)
    with tempfile.TemporaryDirectory(prefix="syllabary-") as folder:
        shard = _told("shard", _shard_rate(recipe, Path(folder), share))
        with _bounded(device, f"a probe of pretrain ({kinds['pretrain']})"):
            pretrain = _told("pretrain", _pretrain_rate(recipe, device, share))
        with _bounded(device, f"a probe of codec training ({kinds['codec']})"):
            codec, adversarial = _codec_rates(recipe, device, share, folder)
        with _bounded(device, f"a probe of the tokenizer ({kinds['encode']})"):
            encode, decode = _tokenizer_rates(recipe, device, share, folder)
    return StageRates(
        shard=shard, pretrain=pretrain, codec=codec, adversarial=adversarial, encode=encode, decode=decode
    )


def what_is_probed(recipe: Recipe) -> dict[str, str]:
    """What each rate of :func:`probe` is a rate of, in words, by the rate's name."""
    device = select_device(recipe.pretrain)
    codec = f"{_clips(recipe, recipe.codec, device)}, "
    before, after = _codec_in_words(recipe.codec)
    utterance = f"one utterance of {_utterance_s(recipe):g} s, random weights, fp32 on {device.type}"
    return {
        "shard": f"one FLAC of {_RECORDING_S:g} s, synthetic speech, from a local disk to a local disk",
        "pretrain": _clips(recipe, recipe.pretrain, device),
        "codec": codec + before,
        "adversarial": codec + after,
        "encode": utterance,
        "decode": utterance,
    }


def _codec_in_words(codec: CodecTrainConfig) -> tuple[str, str]:
    """What the two rates of stage 2 are rates of."""
    if codec.method == "bottleneck_first":
        crops = f"{codec.vocoder.crops_per_clip} crops of {codec.vocoder.crop_s:g} s per clip"
        return "first phase: bottleneck to log-mel", f"second phase: vocoder on {crops}, with discriminators"
    encoder = "frozen encoder, run in every step" if codec.train_encoder == "frozen" else "encoder fine-tuned"
    if codec.cache_latents:
        encoder += " although the recipe keeps its latents: training is faster"
    return f"{encoder}, before the discriminators start", f"{encoder}, with discriminators"


def _clips(recipe: Recipe, train: TrainConfig, device: torch.device) -> str:
    rows = _one_rank(train, device).micro_batch_size
    step = f"steps of {rows} clip{'s' if rows > 1 else ''} of {clip_s(recipe, train):g} s"
    asked = "" if rows == train.micro_batch_size else f" (the recipe's micro-batch is {train.micro_batch_size})"
    return f"{step}{asked}, {settle_alone(train, device).precision} on {device.type}"


def _utterance_s(recipe: Recipe) -> float:
    window_s = recipe.model.framing.window_samples / recipe.model.encoder.sample_rate
    return float(min(recipe.ingest.max_utterance_s, window_s))


def _bounded(device: torch.device, what: str) -> AbstractContextManager[None]:
    """Memory for one kind of work: on a CPU what is free now; a GPU has its own, and says itself when it is full."""
    gc.collect()  # the engines of the kind before refer to themselves
    if device.type != "cpu":
        return nullcontext()
    return bounded_memory(what, free_bytes() - RESERVED_BYTES, "free some memory, or state the --rates")


def _told(kind: str, rate: float) -> float:
    say("plan", f"{kind}: {rate:,.3g} s of audio per second of one worker")
    return rate


def _alone_in_a_process_group(device: torch.device) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone)
    join_process_group(device)


def _repeated(work: Callable[[], float], budget_s: float) -> float:
    """Units of ``work`` a second: what it returns, over the time it takes, after one call to warm up.

    Without a GPU that is processor time: a worker has one thread, so it is the time of a core of its own, whatever
    else this machine does meanwhile.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    work()
    done, started = 0.0, clock()
    while True:
        done += work()
        elapsed = clock() - started
        if elapsed >= budget_s:
            return done / elapsed


def _sound(seconds: float, rate: int) -> NDArray[np.float32]:
    """Harmonics under a syllable rhythm with pauses: a voice detector takes it for speech."""
    time_s = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * 120 * time_s
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    rhythm = np.maximum(0, np.sin(2 * np.pi * 2 * time_s)) * (np.sin(2 * np.pi * time_s / 8) > -0.8)
    noise = np.random.default_rng(0).standard_normal(len(time_s))
    return (0.1 * voice * rhythm + 0.002 * noise).astype(np.float32)


def _shard_rate(recipe: Recipe, folder: Path, budget_s: float) -> float:
    source, out = folder / "source" / "speaker", str(folder / "shards")
    source.mkdir(parents=True)
    soundfile.write(source / "a.flac", _sound(_RECORDING_S, 16_000), 16_000, subtype="PCM_16")
    recordings = list_recordings(str(source.parent), recipe.ingest)
    ingest.claim_output(out, str(source.parent), recipe.ingest)
    plans = ingest.update_plan(out, recordings, recipe.ingest)

    def work() -> float:
        write_shard(out, plans[0], recipe.ingest, ingest.FILES)
        return _RECORDING_S

    return _repeated(work, budget_s)


def _pretrain_rate(recipe: Recipe, device: torch.device, budget_s: float) -> float:
    train, batch = _one_rank(recipe.pretrain, device), _batch(recipe, recipe.pretrain, device)
    recipe = recipe.model_copy(update={"pretrain": train})
    stage = JepaStage(RankSetup(_job(recipe, ""), device, [], load_universal=False))
    return _repeated(lambda: _step(stage, batch, 1, recipe, device), budget_s)


def _codec_rates(recipe: Recipe, device: torch.device, budget_s: float, folder: str) -> tuple[float, float]:
    train = _one_rank(recipe.codec, device).model_copy(update={"standardize_latents": False, "cache_latents": False})
    batch = _batch(recipe, recipe.codec, device)
    recipe = recipe.model_copy(update={"codec": train})
    _save_random_encoder(recipe, folder)
    make = PhasedCodecStage if train.method == "bottleneck_first" else CodecStage
    stage = make(RankSetup(_job(recipe, folder), device, [], load_universal=False))
    before = _told("codec", _repeated(lambda: _step(stage, batch, 0, recipe, device), budget_s))
    late = _steps_with_discriminators(train)
    after = _repeated(lambda: sum(_step(stage, batch, step, recipe, device) for step in late), budget_s)
    return before, _told("codec with discriminators", after)


def _steps_with_discriminators(codec: CodecTrainConfig) -> range:
    """Steps that cost what all of them cost on average: the discriminators of the second phase do not learn in each."""
    if codec.method == "bottleneck_first":
        first = codec.bottleneck_steps + codec.vocoder.discriminator_start_step + 1
        return range(first, first + codec.vocoder.discriminate_every)
    return range(codec.discriminator_start_step + 1, codec.discriminator_start_step + 2)


def _tokenizer_rates(recipe: Recipe, device: torch.device, budget_s: float, folder: str) -> tuple[float, float]:
    torch.manual_seed(0)
    codec = Codec(recipe.model)
    states = (codec.encoder.state_dict(), codec.generator.state_dict())
    uri = str(Path(folder, "tokenizer"))
    save_tokenizer(uri, recipe.model, *states, recipe={"name": recipe.name})
    tokenizer = Tokenizer.load(uri, device=device.type)
    rate = recipe.model.encoder.sample_rate
    seconds = _utterance_s(recipe)
    wave = _sound(seconds, rate)
    tokens = tokenizer.encode(wave, rate).tokens

    def encode() -> float:
        tokenizer.encode(wave, rate)
        return seconds

    def decode() -> float:
        tokenizer.decode(tokens, len(wave))
        return seconds

    return _told("encode", _repeated(encode, budget_s)), _told("decode", _repeated(decode, budget_s))


def _one_rank(train: Any, device: torch.device) -> Any:
    micro = train.micro_batch_size if device.type == "cuda" else 1
    alone = settle_alone(train, device)
    return alone.model_copy(update={"num_workers": 1, "micro_batch_size": micro, "grad_accum_steps": 1})


def _batch(recipe: Recipe, train: TrainConfig, device: torch.device) -> Batch:
    """Clips as long as training takes them, all of the same sound."""
    hop = recipe.model.framing.hop_length
    frames = int(clip_s(recipe, train) * recipe.model.encoder.sample_rate) // hop
    wave = torch.from_numpy(_sound(frames * hop / recipe.model.encoder.sample_rate, recipe.model.encoder.sample_rate))
    rows = train.micro_batch_size if device.type == "cuda" else 1
    waveform = wave[: frames * hop].expand(rows, -1).contiguous()
    slots = tuple(Slot(utterance=row, seed=row) for row in range(rows))
    return Batch(waveform, torch.full((rows,), waveform.shape[1]), slots)


def _step(stage: Any, batch: Batch, step: int, recipe: Recipe, device: torch.device) -> float:
    stage.train_step(step, [replace(batch)], 1e-5, detailed=False)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return float(batch.num_samples.sum()) / recipe.model.encoder.sample_rate


def _job(recipe: Recipe, encoder_uri: str) -> RankJob:
    return RankJob(run_uri="", shards_uri="", recipe=recipe, mailbox=None, encoder_uri=encoder_uri)


def _save_random_encoder(recipe: Recipe, folder: str) -> None:
    from safetensors.torch import save

    torch.manual_seed(0)
    state = {name: value.contiguous() for name, value in Codec(recipe.model).encoder.state_dict().items()}
    Folder(folder).publish(ENCODER_FILE, save(state))
