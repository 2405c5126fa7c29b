"""The moving average: decays as written, follows exactly, and goes on after a restart as if there were none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from syllabary.model.averaging import Averaged


def averaged(decay: float, value: float = 0.0) -> Averaged[nn.Linear]:
    linear = nn.Linear(1, 1)
    nn.init.constant_(linear.weight, value)
    nn.init.constant_(linear.bias, -value)
    return Averaged(linear, decay)


def step_to(pair: Averaged[nn.Linear], value: float) -> float:
    with torch.no_grad():
        pair.live.weight.fill_(value)
        pair.live.bias.fill_(-value)
    pair.update()
    assert float(pair.average.bias) == pytest.approx(-float(pair.average.weight))
    return float(pair.average.weight)


def test_the_first_averages_by_hand() -> None:
    """d = 2/11, 3/12, 4/13: from 0 over 1, 2 and 3."""
    pair = averaged(0.999)
    first = 1 - 2 / 11
    second = first * 3 / 12 + 2 * (1 - 3 / 12)
    third = second * 4 / 13 + 3 * (1 - 4 / 13)
    assert [step_to(pair, value) for value in (1, 2, 3)] == pytest.approx([first, second, third])


def test_the_decay_is_never_above_the_one_asked_for() -> None:
    """0.25 is reached at the second update: (1 + 2) / (10 + 2)."""
    pair = averaged(0.25)
    expected = 0.0
    for k, value in enumerate((5.0, 1.0, 4.0, 2.0), start=1):
        d = min(0.25, (1 + k) / (10 + k))
        expected = d * expected + (1 - d) * value
        assert step_to(pair, value) == pytest.approx(expected, rel=1e-6)
    assert step_to(averaged(0.0), 7.0) == 7.0


def test_weights_at_rest_stay_the_same_bits() -> None:
    torch.manual_seed(0)
    pair = Averaged(nn.Linear(50, 50), 0.998)
    before = copy.deepcopy(pair.average.state_dict())
    for _ in range(20):
        pair.update()
    assert all(value.equal(before[name]) for name, value in pair.average.state_dict().items())


def test_a_saved_average_goes_on_as_if_nothing_had_happened() -> None:
    whole, broken = averaged(0.9), averaged(0.9)
    for value in (1.0, 2.0, 3.0):
        step_to(whole, value)
        step_to(broken, value)
    resumed = averaged(0.9, value=99.0)
    resumed.load_state_dict(broken.state_dict())
    assert [step_to(resumed, v) for v in (4.0, 5.0)] == [step_to(whole, v) for v in (4.0, 5.0)]


def test_the_average_neither_learns_nor_drops_out_and_the_live_one_is_called() -> None:
    pair = Averaged(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), 0.9).train()
    assert pair.live.training and not pair.average.training
    assert all(p.requires_grad for p in pair.live.parameters())
    assert not any(p.requires_grad for p in pair.average.parameters())
    x = torch.ones(4, 3)
    pair.live.eval()
    with torch.no_grad():
        pair.average[0].weight.zero_()
        assert pair(x).equal(pair.live(x)) and not pair(x).equal(pair.average(x))


def test_parts_alone_can_be_followed() -> None:
    pair = Averaged(nn.ModuleDict({"still": nn.Linear(1, 1), "moving": nn.Linear(1, 1)}), 0.9)
    with torch.no_grad():
        for parameter in pair.live.parameters():
            parameter.fill_(5.0)
    before = copy.deepcopy(pair.average.state_dict())
    pair.update("moving")
    after = pair.average.state_dict()
    assert all(after[name].equal(before[name]) for name in before if name.startswith("still."))
    assert float(after["moving.weight"]) == pytest.approx(2 / 11 * float(before["moving.weight"]) + 9 / 11 * 5)
