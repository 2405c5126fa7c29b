"""Retry while storage or the cluster is away: one loop for both. Free of torch and ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0


def patiently(
    action: Callable[[], T],
    patience_s: float,
    *,
    passes: Callable[[Exception], bool],
    tell: Callable[[Exception, float], None] | None = None,
    wait_s: float = FIRST_WAIT_S,
    longest_wait_s: float = LONGEST_WAIT_S,
) -> T:
    """Return what ``action`` returns, retried for up to ``patience_s`` seconds after failures that may pass.

    Args:
        action: what to do.
        patience_s: no try begins later than this after the first one.
        passes: whether a failure may pass by itself; any other is raised at once.
        tell: called with each failure and the seconds until the next try.
        wait_s: before the second try; doubled from try to try, up to ``longest_wait_s``.
        longest_wait_s: between two tries.

    Raises:
        Exception: the first failure that does not pass, or the last one.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return action()
        except Exception as error:
            if not passes(error) or time.monotonic() + wait_s > deadline:
                raise
            if tell is not None:
                tell(error, wait_s)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, longest_wait_s)
