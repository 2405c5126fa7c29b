"""What the training tests share: little shards of synthesized sound, a recipe that trains in seconds, and a gang of
processes that holds a process group, so that importing torch and DeepSpeed is paid once."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from unittest import mock

import numpy as np

from syllabary.model.config import CodecLossConfig, DiscriminatorConfig
from syllabary.shards import audio, dataset, outputs, store
from syllabary.workers.recipes.recipe import (
    BottleneckConfig,
    CodecTrainConfig,
    OptimizerConfig,
    PretrainConfig,
    Recipe,
    VocoderConfig,
    validate,
)
from tests.helpers.small_models import CONFIGS, RATE

_OPTIMIZER = OptimizerConfig(lr=3e-4, warmup_steps=3, final_lr_fraction=0.1)
# Every term of stage 2, but the log magnitudes of mrstft weigh little: their gradient is as large as a bin is small, of
# an untrained generator's above all at 0 Hz, and what bf16 leaves of it is a third to twice as far from fp32's as zero.
# That of a mel spectrum, whose bands sum bins, is within .02, so that runs which only round differently stay together.
_LOSSES = CodecLossConfig(
    stft_ffts=(256, 128, 64), mrstft_weight=0.01, mel_ffts=(128, 64), mel_bands=(12, 8), mel_weight=1.0
)


def training_recipe(**changes: Any) -> Recipe:
    """The small waveform model with both stages set to a few quick steps; ``changes`` are ``section__key=value``."""
    shared: dict[str, Any] = {
        "num_steps": 8, "micro_batch_size": 2, "optimizer": _OPTIMIZER, "checkpoint_every": 2, "validate_every": 4,
        "num_validation_utterances": 4, "log_every": 1, "keep_checkpoints": 2, "collective_timeout_s": 60,
    }  # fmt: skip
    model = CONFIGS["waveform"].model_copy(update={"losses": _LOSSES})
    pretrain, codec = (
        PretrainConfig(**shared),
        CodecTrainConfig(**shared, discriminator_start_step=4, num_samples_kept=0),
    )
    return changed(Recipe(name="training-test", model=model, pretrain=pretrain, codec=codec), changes)


def phased_recipe(**changes: Any) -> Recipe:
    """The small spectral model with stage 2 by its bottleneck first: four steps of it, four of the vocoder, whose
    discriminators judge from its second step on and learn in every other; ``changes`` as of ``training_recipe``."""
    model = CONFIGS["spectral"].model_copy(
        update={
            "losses": CodecLossConfig(
                mel_ffts=(128, 64), mel_bands=(12, 8), waveform_weight=0.0, mrstft_weight=0.0, mel_weight=6.0,
                adversarial_weight=1.0, feature_matching_weight=2.0,
            ),
            "discriminator": DiscriminatorConfig(
                periods=(2, 3), num_scales=0, spectral_ffts=(64, 32), channel_divisor=32
            ),
        }
    )  # fmt: skip
    vocoder = VocoderConfig(
        optimizer=_OPTIMIZER.model_copy(update={"warmup_steps": 1}), crop_s=0.24, discriminator_start_step=1
    )
    codec = CodecTrainConfig(
        num_steps=8, micro_batch_size=2, optimizer=_OPTIMIZER, checkpoint_every=2, validate_every=4,
        num_validation_utterances=4, log_every=1, keep_checkpoints=2, collective_timeout_s=60, num_samples_kept=0,
        method="bottleneck_first", train_encoder="finetune", average_decay=0.9,
        bottleneck=BottleneckConfig(share=0.5), vocoder=vocoder,
    )  # fmt: skip
    return changed(Recipe(name="phased-test", model=model, codec=codec), changes)


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with values at ``section__key`` replaced."""
    values = recipe.model_dump(mode="json")
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    return validate(values)


def no_dropout() -> dict[str, Any]:
    """Changes that take every random choice out of the model, for comparisons between world sizes."""
    return {"model__encoder__conformer__dropout": 0.0, "model__jepa__predictor__dropout": 0.0}


def sound(number: int, num_samples: int) -> np.ndarray:
    """A chord with a slow beat, different for each number: float32 [num_samples]."""
    t = np.arange(num_samples) / RATE
    rng = np.random.default_rng(number)
    tones = [np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in rng.uniform(60, 800, 4)]
    beat = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(1, 3) * t)
    return (0.15 * sum(tones) * beat + 0.01 * rng.standard_normal(num_samples)).astype(np.float32)


def write_training_shards(
    uri: str, *, train: int = 24, valid: int = 6, lengths: tuple[int, int] = (1200, 2600), shards: int = 2
) -> str:
    """Complete shards at ``uri`` of ``train`` and ``valid`` utterances with lengths in samples at 2 kHz."""
    outputs.claim(uri, "shards", inputs={"train": train, "valid": valid}, config={"lengths": list(lengths)})
    for split, count in (("train", train), ("valid", valid)):
        for part in range(shards):
            _write_shard(uri, split, part, range(part, count, shards), lengths)
    outputs.mark_done(uri, {"train": train, "valid": valid})
    return uri


def _write_shard(uri: str, split: str, part: int, numbers: range, lengths: tuple[int, int]) -> None:
    shard = f"{split}-{part:06d}"
    rows = []
    with store.publishing(dataset.shard_uri(uri, shard)) as path, dataset.ShardWriter(path) as writer:
        for number in numbers:
            n = lengths[0] + (number * 397) % (lengths[1] - lengths[0] + 1)
            flac = audio.encode_flac(sound(number + (1000 if split == "valid" else 0), n), RATE)
            key = f"{split}-{number:04d}"
            rows.append(
                {
                    "utterance_id": key,
                    "recording_id": key,
                    "speaker": f"{split}-{number % 5}",
                    "split": split,
                    "shard": shard,
                    "key": key,
                    "offset": writer.add(key, flac, {}),
                    "size_bytes": len(flac),
                    "sample_rate": RATE,
                    "num_samples": n,
                    "start_sample": 0,
                    "sha256": hashlib.sha256(flac).hexdigest(),
                    "source": "synthesized",
                    "language": None,
                    "snr_db": None,
                }
            )
    dataset.publish_index(uri, shard, rows)


@dataclass
class Lines:
    """A mailbox without Ray: keeps what rank 0 says."""

    said: list[str] = field(default_factory=list)

    @property
    def put(self) -> Lines:
        """As an actor's method."""
        return self

    def remote(self, said: object) -> None:
        """As an actor's call."""
        self.said.append(str(said))


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gang:
    """``size`` processes with a gloo process group, each running the same function when told to, within a ``with``.

    ``environment`` is laid over that of this process before they start, and so before they load any library.
    """

    def __init__(self, size: int, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        context = multiprocessing.get_context("spawn")
        self.size, port = size, free_port()
        self._members: list[tuple[Any, Connection]] = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_member, args=(theirs, rank, size, port), daemon=True)
            with mock.patch.dict(os.environ, environment):
                process.start()
            self._members.append((process, ours))

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``function(*args)`` returns on each rank. Raises AssertionError with the first traceback."""
        for _, pipe in self._members:
            pipe.send((function, args))
        answers = [pipe.recv() for _, pipe in self._members]
        for worked, value in answers:
            assert worked, value
        return [value for _, value in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for process, pipe in self._members:
            pipe.send(None)
            process.join(timeout=20)
            if process.is_alive():
                process.kill()


def _member(pipe: Connection, rank: int, size: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    while (task := pipe.recv()) is not None:
        function, args = task
        try:
            pipe.send((True, function(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


@dataclass(frozen=True)
class Trained:
    """What a run left: metrics (split, name) -> values, and the sha256 of its weights; ``said`` on rank 0."""

    series: dict[tuple[str, str], list[float]]
    weights: str
    said: list[str]


class StoppedError(Exception):
    """Raised by a test in the place of a SIGKILL."""


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block ``owner.name`` is ``value``; in the processes of a gang, where pytest's monkeypatch is not."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _run_stage(stage: str, job: Any) -> None:
    """One stage on this rank, on the CPU at any precision: what refuses fp16 there has its own test."""
    import torch

    from syllabary.workers.training import rank as train_rank
    from syllabary.workers.training.bottleneck_first import train_codec_rank
    from syllabary.workers.training.jepa import train_jepa_rank

    with replaced(train_rank, "select_device", lambda train: torch.device("cpu")):
        (train_jepa_rank if stage == "pretrain" else train_codec_rank)(job)


def train_here(
    stage: str, recipe: Recipe, out: str, shards: str, encoder: str | None = None, stop_after: int = 0
) -> Any:
    """Run one stage on this process's rank; with ``stop_after`` die right after that step's checkpoint."""
    from syllabary.workers.training import loop as train_loop
    from syllabary.workers.training.driver import RankJob

    lines, original = Lines(), train_loop._checkpoint

    def dying(stage_: Any, run: Any, *, must_succeed: bool) -> None:
        original(stage_, run, must_succeed=must_succeed)
        if stop_after and run.step >= stop_after:
            raise StoppedError

    with replaced(train_loop, "_checkpoint", dying), contextlib.suppress(StoppedError):
        _run_stage(stage, RankJob(out, shards, recipe, lines, encoder))
    return lines.said


def watched(stage: str, recipe: Recipe, out: str, shards: str, encoder: str, watch: Callable[[Any, Any], Any]) -> Any:
    """Run one stage on this process's rank up to its loop, hand stage and run to ``watch`` instead."""
    from syllabary.workers.training import rank as train_rank
    from syllabary.workers.training.driver import RankJob

    seen: list[Any] = []
    with replaced(train_rank, "train", lambda stage_, run: seen.append(watch(stage_, run))):
        _run_stage(stage, RankJob(out, shards, recipe, Lines(), encoder))
    return seen[0]


def trained(out: str, said: Sequence[str] = ()) -> Trained:
    """Read what a finished run left at ``out``."""
    from syllabary.workers.training.history import METRICS, History

    history = History.from_parquet(store.read_bytes(store.join(out, METRICS)))
    series = {
        (split, name): history.series(split, name)[1]
        for split in ("train", "valid")
        for name in history.names(split)  # type: ignore[arg-type]
    }
    weights = [f for f in store.list_files(out, suffix=".safetensors") if "/" not in f.name]
    return Trained(series, hashlib.sha256(store.read_bytes(weights[0].uri)).hexdigest(), list(said))


def prepare_encoder(folder: Path, recipe: Recipe) -> str:
    """A stage-1 output with random weights for ``recipe``."""
    import torch
    from safetensors.torch import save

    from syllabary.model.encoder import Encoder

    torch.manual_seed(7)
    uri = str(folder)
    config = {"encoder": recipe.model.encoder.model_dump(mode="json")}
    outputs.claim(uri, "pretrain", inputs={}, config=config)
    state = {k: v.contiguous() for k, v in Encoder(recipe.model.encoder).state_dict().items()}
    store.publish_bytes(store.join(uri, "encoder.safetensors"), save(state))
    outputs.mark_done(uri, {"steps": 0})
    return uri
