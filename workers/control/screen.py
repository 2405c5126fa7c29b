"""Show a job to a person: one bar per stage on a terminal; lines where output is piped, and JSON lines as they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from syllabary.workers.control import log
from syllabary.workers.control.log import Reached, Told

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextmanager
def on_screen() -> Iterator[Callable[[Told], None]]:
    """Show a job's lines and progress on standard error for the length of the block."""
    if log.is_json() or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda told: log.write(told.line)
        return
    bars = _Bars()
    try:
        yield bars.show
    finally:
        bars.stop()


class _Bars:
    """Bars at the bottom of the terminal, and lines above them."""

    def __init__(self) -> None:
        from rich.console import Console  # where output is piped, nothing of rich is loaded
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.table import Column

        words = Column(no_wrap=True, overflow="ellipsis")
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[words]}", markup=False, table_column=words),
            console=Console(stderr=True),
            auto_refresh=False,  # an event moves the bar, no clock does
        )
        self._begun: dict[str, TaskID] = {}

    def show(self, told: Told) -> None:
        """Move the bar of the stage that the event is of; a line that is no event goes above the bars."""
        if told.reached is None:
            self._bars.console.out(told.line, highlight=False)
        else:
            self._move(told.reached)

    def _move(self, reached: Reached) -> None:
        share = min(1.0, reached.done / reached.total) if reached.total else 1.0
        if not self._begun:
            self._bars.start()
        if reached.stage not in self._begun:
            self._begun[reached.stage] = self._bars.add_task(reached.stage, total=1.0, words="")
        self._bars.update(self._begun[reached.stage], completed=share, words=str(reached), refresh=True)

    def stop(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        if self._begun:
            self._bars.stop()
