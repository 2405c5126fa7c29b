"""One loop asks again: how often, how long apart, and what it raises, on a clock that stands still unless it waits."""

from __future__ import annotations

import pytest

from syllabary.workers.control import patience
from syllabary.workers.control.patience import patiently


class Clock:
    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


def away(error: Exception) -> bool:
    return isinstance(error, OSError)


def failing(*errors: Exception):
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "back"

    return action


def test_waits_double_up_to_the_longest_and_are_told(clock: Clock) -> None:
    told: list[tuple[str, float]] = []
    action = failing(*(OSError(str(n)) for n in range(7)))
    found = patiently(action, 100.0, passes=away, tell=lambda error, wait_s: told.append((str(error), wait_s)))
    assert found == "back" and clock.waits == [0.5, 1, 2, 4, 8, 15, 15]
    assert told == [(str(n), wait_s) for n, wait_s in enumerate(clock.waits)]


def test_patience_ends_with_the_last_failure(clock: Clock) -> None:
    with pytest.raises(OSError, match=r"^2$"):
        patiently(failing(OSError("0"), OSError("1"), OSError("2")), 2.0, passes=away)
    assert clock.waits == [0.5, 1.0], "a try after 3.5 s would be beyond the patience of 2 s"


def test_what_does_not_pass_is_raised_at_once(clock: Clock) -> None:
    with pytest.raises(ValueError, match="wrong"):
        patiently(failing(OSError("0"), ValueError("wrong")), 100.0, passes=away)
    assert clock.waits == [0.5]
