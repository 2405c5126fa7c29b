"""``lm-train``: train a small language model on blocks, data-parallel on Ray Train, resumed from the newest checkpoint.

Step n takes the ``batch_size`` blocks from n * batch_size on, whatever the number of ranks, so that a run that was cut
short goes on with the blocks that it would have seen.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from syllabary.shards import outputs, store
from syllabary.shards.errors import ConfigError, DamageError
from syllabary.workers.control.jobs import LmTrainJob
from syllabary.workers.control.log import Reached, say
from syllabary.workers.lm.blocks_data import BlockSource, Vocabulary
from syllabary.workers.lm.directory import save_model
from syllabary.workers.lm.evaluate import held_out_nats, shuffled_batch
from syllabary.workers.lm.speech_lm import LmLoss, make_model
from syllabary.workers.training.checkpoints import CheckpointStore, Manifest
from syllabary.workers.training.driver import train_on_ray
from syllabary.workers.training.engine import join_process_group, sum_over_ranks, world
from syllabary.workers.training.loop import DivergedError

STAGE = "lm-train"
_SAID_EVERY = 20
_VALIDATION_BLOCKS = 32
_NOT_OF_THE_RESULT = {"blocks", "out", "num_workers", "threads_per_worker", "device", "checkpoint_every"}


@dataclass(frozen=True)
class Ranks:
    """The placement of a run's ranks."""

    num_workers: int
    threads_per_worker: int
    device: Literal["auto", "cpu", "cuda"]
    collective_timeout_s: int = 600
    max_restarts: int = 2


@dataclass(frozen=True)
class LmRank:
    """What every rank gets."""

    run_uri: str
    job: LmTrainJob
    mailbox: Any
    device: Literal["auto", "cpu", "cuda"] = "auto"


def lm_train(job: LmTrainJob) -> dict[str, Any]:
    """Train a model at ``job.out``, or go on where a run has stopped; returns the content of done.json.

    Raises:
        InputError, NotFoundError: there are no such blocks, or none of the split ``valid``.
        ConfigError: sizes that do not go together.
        ConflictError: ``out`` belongs to another run.
        DivergedError: the loss is no longer finite.
    """
    vocabulary = Vocabulary.of_blocks(job.blocks)
    if job.hidden_size % (2 * job.num_heads):
        expected = f"a multiple of {2 * job.num_heads}, twice the number of heads"
        raise ConfigError("hidden size", value=job.hidden_size, expected=expected)
    if job.batch_size % job.num_workers:
        raise ConfigError("batch size", value=job.batch_size, expected=f"a multiple of the {job.num_workers} workers")
    for split in ("train", "valid"):
        BlockSource(job.blocks, split, job.seed)
    inputs = {"blocks": outputs.digest(outputs.read_claim(job.blocks, "packed"))}
    config = job.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT)
    outputs.claim(job.out, "language_model", inputs=inputs, config=config)
    done = outputs.read_done(job.out)
    if done is None:
        ranks = Ranks(job.num_workers, job.threads_per_worker, job.device)
        out = store.normalize(job.out)
        own = job.model_copy(update={"blocks": store.normalize(job.blocks)})  # a rank has another working directory
        train_on_ray(STAGE, _rank_main, ranks, lambda mailbox: LmRank(out, own, mailbox))
        done = outputs.read_done(job.out) or {}
    else:
        say(STAGE, "already complete, nothing to do")
    encoder = {"encoder_digest": vocabulary.metadata["encoder_digest"]}
    return {**done, **encoder, "model": store.join(job.out, "model")}


def _rank_main(rank: LmRank) -> None:
    """Train on one rank, from the newest checkpoint to the end."""
    job = rank.job
    torch.set_num_threads(job.threads_per_worker)
    device = torch.device("cuda", torch.cuda.current_device()) if rank.device == "cuda" else torch.device("cpu")
    join_process_group(device)
    number, size = world()

    def tell(said: str | Reached) -> None:
        if number == 0:
            rank.mailbox.put.remote(said)

    train_lm(job, rank.run_uri, device, number, size, tell)


def train_lm(
    job: LmTrainJob, run_uri: str, device: torch.device, number: int, size: int, tell: Callable[[str | Reached], Any]
) -> None:
    """Train as rank ``number`` of ``size``. Raises DivergedError, DamageError, StorageError."""
    vocabulary = Vocabulary.of_blocks(job.blocks)
    torch.manual_seed(job.seed)
    sizes = {"hidden_size": job.hidden_size, "num_layers": job.num_layers, "num_heads": job.num_heads}
    model = make_model(vocabulary, **sizes)
    model.to(torch.device(device))  # type: ignore[arg-type]
    loss = LmLoss(model, vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    checkpoints = CheckpointStore(run_uri)
    first = _resume(checkpoints, model, optimizer, device, number, tell)
    parallel = DistributedDataParallel(loss) if size > 1 else loss
    train, valid = (BlockSource(job.blocks, split, job.seed) for split in ("train", "valid"))
    share = job.batch_size // size
    tell(f"{len(train):,} blocks, {sum(p.numel() for p in model.parameters()):,} parameters, from step {first:,}")
    since, tokens = time.monotonic(), 0
    rows: list[dict[str, float]] = []
    for step in range(first, job.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(job, step)
        batch = train.batch(step * job.batch_size + number * share, share, device)
        if job.shuffled:
            batch = shuffled_batch(batch, vocabulary, np.random.default_rng([job.seed, step, number]))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            nats, count = parallel(batch)
        total = sum_over_ranks(torch.stack([nats.detach().double(), count.double()]))
        (nats * size / total[1]).backward()  # the mean over all ranks: gradients are averaged over these
        bits = float(total[0] / total[1]) / math.log(2)
        if not math.isfinite(bits):
            raise DivergedError("the loss is not finite", value=bits, fix="use a smaller --learning-rate")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += int(total[1])
        if (step + 1) % _SAID_EVERY == 0 or step + 1 == job.num_steps:
            elapsed = time.monotonic() - since
            steps_per_s = (step + 1 - first) / elapsed
            figures = {"bits_per_token": bits, "tokens_per_s": tokens / elapsed}
            left_s = (job.num_steps - step - 1) / steps_per_s
            tell(Reached(STAGE, "steps", step + 1, job.num_steps, steps_per_s, left_s, figures))
            rows.append({"step": step + 1, **figures})
        if (step + 1) % job.checkpoint_every == 0 and step + 1 < job.num_steps and number == 0:
            _store(checkpoints, step + 1, model, optimizer, size)
    if number == 0:
        nats_sum, num_labels = held_out_nats(
            loss, valid, min(_VALIDATION_BLOCKS, len(valid)), job.batch_size, device, shuffle=job.shuffled
        )
        save_model(store.join(run_uri, "model"), model, vocabulary, sizes)
        done = {"num_steps": job.num_steps, "valid_bits_per_token": nats_sum / num_labels / math.log(2)}
        if rows:
            done |= {"tokens_per_s": rows[-1]["tokens_per_s"], "train_bits_per_token": rows[-1]["bits_per_token"]}
        outputs.mark_done(run_uri, {name: round(value, 4) for name, value in done.items()})


def learning_rate(job: LmTrainJob, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine down to a tenth."""
    if step < job.warmup_steps:
        return job.learning_rate * (step + 1) / job.warmup_steps
    share = (step - job.warmup_steps) / max(job.num_steps - job.warmup_steps, 1)
    return job.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(share, 1.0)))


def _store(
    checkpoints: CheckpointStore, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, size: int
) -> None:
    tensors = {f"model.{name}": own.detach().cpu() for name, own in model.state_dict().items()}
    tensors.pop("model.lm_head.weight", None)
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).detach().cpu()
    with tempfile.TemporaryDirectory(prefix="syllabary-lm-") as folder:
        path = Path(folder) / "state.safetensors"
        safetensors.torch.save_file({name: own.contiguous().clone() for name, own in tensors.items()}, path)
        stored = checkpoints.put_file(step, "state.safetensors", path)
    checkpoints.commit(Manifest(step, size, {}, (stored,)))
    checkpoints.retain(last=2, best=None)


def _resume(
    checkpoints: CheckpointStore,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    number: int,
    tell: Callable[[str], Any],
) -> int:
    """Load the newest undamaged checkpoint and return how many steps are done. Raises DamageError: all are damaged."""
    step, reports = checkpoints.newest_whole()
    for report in reports:
        tell(report)
    if step is None:
        if reports:
            raise DamageError("no checkpoint is whole", value=checkpoints.folder.uri, fix="delete them to begin anew")
        return 0
    with checkpoints.fetched(step) as folder:
        tensors: Mapping[str, Tensor] = safetensors.torch.load_file(folder / "state.safetensors")
    own = {name.removeprefix("model."): one for name, one in tensors.items() if name.startswith("model.")}
    model.load_state_dict(own, strict=False)
    for name, parameter in model.named_parameters():
        state = {key: tensors[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {k: v if k == "step" else v.to(device) for k, v in state.items()}
    tell(f"goes on from step {step:,}")
    return step
