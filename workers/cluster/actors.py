"""Rows through a pool of Ray actors by Ray Data, one row at a time in each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

from syllabary.shards import errors
from syllabary.shards.errors import SyllabaryError

Row = dict[str, Any]
_TALKATIVE = ("ray.data", "ray.data._internal.execution.streaming_executor", "ray.data._internal.progress")


def refused(error: SyllabaryError) -> Row:
    """What an actor returns in the place of a result: the ``error``'s line and its ``kind``."""
    return {"error": str(error), "kind": type(error).__name__}


def error_of(row: Row) -> SyllabaryError:
    """The error that an actor met, of its own kind again."""
    kind: type[SyllabaryError] = getattr(errors, row["kind"])
    return kind(row["error"])


def through_actors(
    actor: type, arguments: tuple[Any, ...], rows: list[Row], num_workers: int, *, num_gpus: int = 0
) -> Iterator[Row]:
    """What ``actor(*arguments)(row)`` returns for every row, as it comes; inside of a Ray session.

    Ray Data starts a lost actor again and gives its row to another, without limit: an actor's work must bear that. A
    row waits in no actor's queue, so that none waits behind a long one while another actor has nothing to do.

    Args:
        actor: a class whose objects are called with a row; each has a core, and ``num_gpus`` GPUs.
        arguments: of its constructor.
        rows: values of Arrow's types.
        num_workers: actors.
    """
    import ray

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        cast("Callable[..., Row]", actor),
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=num_gpus,
    )
    yield from results.iter_rows()
