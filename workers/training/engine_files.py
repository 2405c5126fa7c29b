"""DeepSpeed's files in and out of the checkpoint store, also between different numbers of ranks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from syllabary.shards import store
from syllabary.shards.errors import DamageError, StorageError
from syllabary.workers.training.checkpoints import CheckpointStore, StoredFile
from syllabary.workers.training.engine import gather_from_ranks, restore_scaling, scaling_state, world
from syllabary.workers.training.history import History


def save_engines(
    engines: Mapping[str, Any], checkpoints: CheckpointStore, step: int, history: History
) -> list[StoredFile] | str:
    """Store this rank's files of every engine, and on rank 0 the metrics; a line instead when storage refuses.

    Collective: every rank calls it. Nothing is committed yet.
    """
    with contextlib.ExitStack() as scratch:
        problem, folder = None, Path()
        try:
            folder = scratch.enter_context(_scratch(checkpoints.folder.uri))
        except OSError as error:
            problem = f"cannot write below {checkpoints.folder.uri} ({error})"
        # What DeepSpeed does next is collective: all ranks do it or none.
        problems = [line for line in gather_from_ranks(problem) if line]
        if problems:
            return problems[0]
        try:
            _write(engines, folder, history)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            return [checkpoints.put_file(step, path.relative_to(folder).as_posix(), path) for path in files]
        except StorageError as error:
            return str(error)


def _write(engines: Mapping[str, Any], folder: Path, history: History) -> None:
    """This rank's files into an empty local folder. Raises StorageError, but not before every engine has had its turn:
    DeepSpeed ends each in a barrier, which all ranks must reach."""
    problems: list[str] = []
    for name, engine in engines.items():
        engine._copy_recovery_script = lambda folder: None  # a script of DeepSpeed's own, needed by no one here
        with _failures_noted(engine.checkpoint_engine, problems):
            engine.save_checkpoint(str(folder), tag=name, client_state=scaling_state(engine), save_latest=False)
    if world()[0] == 0 and not problems:
        try:
            (folder / "metrics.parquet").write_bytes(history.to_parquet())
        except OSError as error:
            problems.append(f"cannot write metrics.parquet ({error})")
    if problems:
        raise StorageError(problems[0])


@contextlib.contextmanager
def _failures_noted(writer: Any, problems: list[str]) -> Iterator[None]:
    """Within the block, a file that DeepSpeed's ``writer`` cannot write is a line in ``problems`` and no exception."""
    save = writer.save

    def noting(state_dict: Any, path: str) -> None:
        try:
            save(state_dict, path)
        except (OSError, RuntimeError) as error:  # torch's own writer reports a full disk as a RuntimeError
            problems.append(f"cannot write {Path(path).name} ({str(error).splitlines()[0]})")

    writer.save = noting
    try:
        yield
    finally:
        del writer.save


def load_engines(engines: Mapping[str, Any], folder: Path, *, written_by: int) -> None:
    """Load every engine from the files in ``folder``, which ``written_by`` ranks wrote. Collective.

    Raises:
        DamageError: DeepSpeed finds no checkpoint there.
    """
    for name, engine in engines.items():
        convert = needs_universal(engine.zero_optimization_stage(), written_by)
        if convert:
            _load_module(engine, folder / name)
        with _loadable(folder / name, convert) as loadable:
            where, tag = str(loadable.parent), loadable.name
            path, state = engine.load_checkpoint(where, tag=tag, load_lr_scheduler_states=False)
            gather_from_ranks(None)  # no rank may delete the converted files while another still reads them
        if path is None:
            raise DamageError(f"no {name} in the checkpoint", value=str(folder))
        restore_scaling(engine, state)


def _load_module(engine: Any, source: Path) -> None:
    """Load every parameter and buffer: DeepSpeed's universal form leaves out what the optimizer does not train, such as
    the EMA target."""
    stored = torch.load(source / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
    engine.module.load_state_dict(stored["module"])


def needs_universal(zero_stage: int, written_by: int) -> bool:
    """Whether a checkpoint has to be converted: ZeRO 1 and 2 split optimizer state over the ranks that wrote it."""
    return zero_stage > 0 and written_by != world()[1]


@contextlib.contextmanager
def _loadable(source: Path, convert: bool) -> Iterator[Path]:
    """``source`` itself, or its conversion to DeepSpeed's universal form."""
    if not convert:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="syllabary-") as scratch:
        target = Path(scratch, source.name)
        command = [
            sys.executable,
            "-m",
            "deepspeed.checkpoint.ds_to_universal",
            "--input_folder",
            str(source),
            "--output_folder",
            str(target),
            "--inject_missing_state",
            "--num_extract_workers",
            "1",
            "--num_merge_workers",
            "1",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DamageError(
                f"checkpoint does not convert to another number of ranks ({done.stderr[-300:]})", value=str(source)
            )
        yield target


@contextlib.contextmanager
def _scratch(checkpoints_uri: str) -> Iterator[Path]:
    """A local folder to write into, on the checkpoints' own filesystem if that is local: files move, not copy."""
    parent = None
    if not store.is_remote(checkpoints_uri):
        parent = Path(store.normalize(checkpoints_uri))
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{store.TEMPORARY_PREFIX}{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
