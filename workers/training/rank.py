"""One rank's side of training: device, process group, data, then the stage and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from syllabary.model.config import EncoderConfig
from syllabary.shards.errors import InputError
from syllabary.shards.outputs import digest
from syllabary.workers.cluster.prometheus import Meter
from syllabary.workers.control.log import Reached
from syllabary.workers.recipes.recipe import CodecTrainConfig, TrainConfig
from syllabary.workers.training.checkpoints import CheckpointStore, Manifest
from syllabary.workers.training.claim import training_section
from syllabary.workers.training.compiling import compile_engines
from syllabary.workers.training.data.clips import NO_AUGMENTATION, Batch, ClipMaker
from syllabary.workers.training.data.epoch_order import SamplePlan
from syllabary.workers.training.data.loader import RankShare, TrainLoader, Utterances, fixed_batches
from syllabary.workers.training.data.resident_corpus import ResidentCorpus, ResidentLoader, require_room
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import gather_from_ranks, join_process_group, select_device, world
from syllabary.workers.training.engine_files import needs_universal
from syllabary.workers.training.loop import Run, Stage, find_resume_step, resume, train
from syllabary.workers.training.precision import settle_precision


@dataclass(frozen=True)
class RankSetup:
    """The inputs of a stage on one rank.

    Attributes:
        job: of this run.
        device: of this rank.
        validation: this rank's share of the held-out clips, the same every time.
        load_universal: whether the engines will load a checkpoint of another number of ranks.
    """

    job: RankJob
    device: torch.device
    validation: list[Batch]
    load_universal: bool


def run_rank(job: RankJob, config: TrainConfig, make_stage: Callable[[RankSetup], Stage]) -> None:
    """Train one stage on this rank, from the newest checkpoint to the end.

    Raises:
        InputError: too few utterances, or too many that cannot be read.
        DamageError: no checkpoint is whole, or the record of the run's precision is not one.
        DivergedError, StorageError, ConfigError: see the loop and the engine.
    """
    torch.set_num_threads(config.threads_per_worker)
    device = select_device(config.model_copy(update={"device": job.device}) if job.device != "auto" else config)
    join_process_group(device)
    say = _leader_says(job)
    config = settle_precision(job.run_uri, config, device, say)
    job = _trained_by(job, config)
    loader = make_loader(job, config, device, say)
    say(held_out_speakers(loader.utterances))
    step = find_resume_step(job.run_uri, say)
    setup = RankSetup(job, device, validation_batches(job, config, say), _is_from_other_world(job, config, step))
    torch.manual_seed(config.seed)
    stage = make_stage(setup)
    is_compiled = compile_engines(stage.engines, config, device, say)
    run = Run(
        job.run_uri, config, loader, say, _leader_meters(job, stage.name), run_identity(job, config),
        is_compiled=is_compiled,
    )  # fmt: skip
    if step is not None:
        resume(stage, run, step)
    train(stage, run)


def _trained_by(job: RankJob, config: TrainConfig) -> RankJob:
    """Return the job with its stage's section replaced."""
    section = "codec" if isinstance(config, CodecTrainConfig) else "pretrain"
    return replace(job, recipe=job.recipe.model_copy(update={section: config}))


def make_loader(job: RankJob, config: TrainConfig, device: torch.device, say: Callable[[str], None]) -> TrainLoader:
    """This rank's loader over the training split.

    On a GPU the corpus is kept in its memory when ``corpus_in_memory`` is "auto" and it fits there, since no loader
    keeps up with one; else batches are read from shards, page-locked for a GPU. ``say`` gets a line about the choice.

    Raises:
        InputError: no utterances, fewer than ranks, or more than allowed cannot be read.
    """
    encoder = job.recipe.model.encoder
    utterances = Utterances(job.shards_uri, "train", encoder.sample_rate)
    share = rank_share(config)
    if not len(utterances):
        raise InputError(
            f"no utterance in the train split of {job.shards_uri}",
            fix="shard more speech; the table that `syllabary shard` prints says what became of it, as silence for one",
        )
    if len(utterances) < share.world_size:
        raise InputError(
            f"{len(utterances)} training utterances at {job.shards_uri} for {share.world_size} ranks",
            fix="shard more speech, or lower num_workers",
        )
    clips = replace(clip_maker(encoder, config), pinned=device.type == "cuda")
    plan, most = SamplePlan(len(utterances), config.seed), config.max_quarantined_percent
    may_stay = device.type == "cuda" and config.corpus_in_memory == "auto"
    if may_stay and (corpus := _resident(utterances, device, encoder, say)):
        return ResidentLoader(utterances, plan, clips, share, corpus=corpus, max_quarantined_percent=most)
    return TrainLoader(utterances, plan, clips, share, max_quarantined_percent=most)


def _resident(
    utterances: Utterances, device: torch.device, encoder: EncoderConfig, say: Callable[[str], None]
) -> ResidentCorpus | None:
    """The corpus in the device's memory, or None where it does not fit."""
    try:
        require_room(utterances.num_samples * 2, device)
    except InputError as error:
        say(f"reads from shards at every step: {error}")
        return None
    corpus = ResidentCorpus.load(utterances, device, loudness_dbfs=encoder.loudness_dbfs)
    say(f"keeps the corpus in the memory of {device.type}: {corpus.size_bytes / 1e6:,.0f} MB")
    return corpus


def validation_batches(job: RankJob, config: TrainConfig, say: Callable[[str], None]) -> list[Batch]:
    """This rank's share of the held-out clips; ``say`` is called for every one that cannot be read. Collective.

    Raises:
        InputError: there is no held-out utterance, or more than max_quarantined_percent of them cannot be read.
    """
    encoder = job.recipe.model.encoder
    utterances = Utterances(job.shards_uri, "valid", encoder.sample_rate)
    if not len(utterances):
        raise InputError(
            f"no utterance in the valid split of {job.shards_uri}",
            fix="shard again with --set ingest.split_by=recording or a higher ingest.valid_percent, or more recordings",
        )
    fixed = replace(clip_maker(encoder, config), augment=NO_AUGMENTATION, fixed_crops=True)
    count = min(config.num_validation_utterances, len(utterances))
    batches = list(fixed_batches(utterances, fixed, rank_share(config), seed=config.seed, count=count))
    left_out = {name: why for part in gather_from_ranks(utterances.quarantined) for name, why in part.items()}
    for name, why in left_out.items():
        say(f"left out of the validation: {name}: {why}")
    _require_enough(left_out, count, config, job.shards_uri)
    return batches


def _require_enough(left_out: dict[str, str], count: int, config: TrainConfig, shards_uri: str) -> None:
    """Raise where too many held-out clips are unreadable; as for training, one may always be missing, but not all."""
    if len(left_out) == count or len(left_out) * 100 > max(config.max_quarantined_percent * count, 100):
        raise InputError(
            f"{len(left_out)} of {count} validation utterances at {shards_uri} cannot be read, the last because: "
            f"{list(left_out.values())[-1]}",
            expected=f"at most {config.max_quarantined_percent:g} %",
            fix="mend the shards, or raise max_quarantined_percent",
        )


def held_out_speakers(trained_on: Utterances) -> str:
    """One line: whether speakers of the validation split are trained on."""
    known = trained_on.speakers()
    held_out = Utterances(trained_on.shards_uri, "valid", trained_on.sample_rate).speakers()
    shared = len(known & held_out)
    return f"validates on {len(held_out)} speakers and trains on {len(known)}; {shared or 'none'} of them are the same"


def run_identity(job: RankJob, config: TrainConfig) -> str:
    """Digest of what a run's weights depend on in its recipe: the model and its training, without the data."""
    section = training_section(config.model_copy(update={"num_workers": world()[1]}))
    return digest({"model": job.recipe.model.model_dump(mode="json"), "train": section})


def rank_share(config: TrainConfig) -> RankShare:
    """Which part of each step is this rank's."""
    rank, world_size = world()
    return RankShare(rank, world_size, config.micro_batch_size, config.grad_accum_steps)


def clip_maker(encoder: EncoderConfig, config: TrainConfig) -> ClipMaker:
    """Crops of whole frames, at most ``crop_s`` and the encoder's window."""
    framing = encoder.framing
    frames = framing.window_frames
    if config.crop_s is not None:
        frames = max(1, min(frames, math.floor(Fraction(str(config.crop_s)) * framing.frame_rate)))
    fixed = isinstance(config, CodecTrainConfig) and config.cache_latents
    return ClipMaker(
        frames * framing.hop_length, framing.hop_length, config.augment, fixed_crops=fixed,
        sample_rate=encoder.sample_rate, loudness_dbfs=encoder.loudness_dbfs,
    )  # fmt: skip


def _is_from_other_world(job: RankJob, config: TrainConfig, step: int | None) -> bool:
    if step is None:
        return False
    written_by = Manifest.read(CheckpointStore(job.run_uri).of_step(step)).world_size
    return needs_universal(config.zero_stage, written_by)


def _leader_says(job: RankJob) -> Callable[[str | Reached], None]:
    if world()[0] != 0:
        return lambda told: None

    def say(told: str | Reached) -> None:
        job.mailbox.put.remote(told)

    return say


def _leader_meters(job: RankJob, stage: str) -> Callable[[float, float], None]:
    if world()[0] != 0:
        return lambda audio_s, rate: None
    return Meter(stage, job.run_uri).advance
