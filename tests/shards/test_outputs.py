"""An output folder belongs to one run; another is refused in words that say what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from syllabary.shards import outputs
from syllabary.shards.errors import ConflictError

ONE, OTHER = "a1" * 32, "b2" * 32
INPUTS: dict[str, Any] = {"archives": [{"encoder": ONE, "parts": ONE}, {"encoder": ONE, "parts": ONE}], "source": "x"}
CONFIG: dict[str, Any] = {"where": None, "limit": 4, "words": ["a", "b"]}


@pytest.mark.parametrize(
    ("inputs", "config", "told"),
    [
        ({}, {"limit": 5}, "config.limit was 4 and is now 5; use another --out, or the same settings as before"),
        ({}, {"where": "speaker = '1'"}, "config.where was None and is now \"speaker = '1'\"; use"),
        ({}, {"words": ["a", "c"]}, "config.words[1] was 'b' and is now 'c'; use"),
        ({}, {"words": ["a"]}, "config.words was ['a', 'b'] and is now ['a']; use"),
        ({}, {"new": 1}, "config.new was not there and is now 1; use"),
        ({}, {"new": 1, "limit": 5}, "config.limit was 4 and is now 5, and 1 more differs; use"),
        (
            {"archives": [INPUTS["archives"][0], {"encoder": ONE, "parts": OTHER}]}, {},
            "inputs.archives[1].parts was 'a1a1a1a1a1a1a1a1...' and is now 'b2b2b2b2b2b2b2b2...'; use another --out, or"
            " the same input as before",
        ),
        ({"source": "y" * 200}, {}, "inputs.source was 'x' and is now '" + "y" * 119 + "...; use"),
        ({"source": [{"of": OTHER}]}, {}, "inputs.source was 'x' and is now [{'of': 'b2b2b2b2b2b2b2b2...'}]; use"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_differs_and_shows_no_whole_digest(
    tmp_path: Path, inputs: dict[str, Any], config: dict[str, Any], told: str
) -> None:
    out = str(tmp_path / "out")
    assert outputs.claim(out, "packed", inputs=INPUTS, config=CONFIG)
    assert not outputs.claim(out, "packed", inputs=INPUTS, config=CONFIG)
    for refuse in (outputs.claim, outputs.refuse_other):
        with pytest.raises(ConflictError) as caught:
            refuse(out, "packed", inputs=INPUTS | inputs, config=CONFIG | config)
        assert str(caught.value).startswith(f"{out} belongs to another run: {told}")
    with pytest.raises(ConflictError, match=r"another run: kind was 'packed' and is now 'report'; use another --out$"):
        outputs.claim(out, "report", inputs=INPUTS | inputs, config=CONFIG | config)


def test_to_refuse_others_takes_nothing(tmp_path: Path) -> None:
    assert not outputs.refuse_other(str(tmp_path), "packed", inputs=INPUTS, config=CONFIG)
    assert not list(tmp_path.iterdir())
    outputs.claim(str(tmp_path), "packed", inputs=INPUTS, config=CONFIG)
    assert outputs.refuse_other(str(tmp_path), "packed", inputs=INPUTS, config=CONFIG)
