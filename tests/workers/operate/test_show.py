"""``show``: every figure of the paper in one page, and base16k's promise."""

import pytest

from syllabary.shards.errors import ConfigError
from syllabary.workers.control.jobs import ShowJob
from syllabary.workers.operate.show import gflop_of, show
from syllabary.workers.recipes.named import RECIPES


def test_paper_page() -> None:
    page = show(ShowJob(recipe="paper"))
    text, figures = page["text"], page["figures"]
    assert "640 bit/s payload · 665 bit/s nominal · 760 bit/s as uint16" in text
    assert "19 tokens/frame · 47.5 tokens/s · vocabulary 16,384" in text
    for part, millions in (("encoder", "118.51"), ("predictor", "3.18"), ("decoder", "69.29")):
        assert [line.split() for line in text.splitlines() if line.split()[:1] == [part]] == [[part, millions, "M"]]
    assert figures["gflop_per_audio_s"]["encode"] == pytest.approx(27, abs=1)
    assert figures["gflop_per_audio_s"]["decode"] == pytest.approx(49, abs=1)


def test_parts_sum_to_their_whole() -> None:
    for name in ("paper", "fast16k", "tiny", "tiny_paper", "small_no_daam"):
        parts = show(ShowJob(recipe=name))["figures"]["parameters"]
        for whole in ("encoder", "decoder"):
            pieces = [count for part, count in parts.items() if part.startswith(f"{whole}.")]
            assert sum(pieces) == parts[whole]


def test_small_parts_are_shown_in_thousands() -> None:
    page = show(ShowJob(recipe="tiny"))
    for name, count in page["figures"]["parameters"].items():
        (line,) = [line for line in page["text"].splitlines() if line.startswith(f"  {name} ")]
        shown, unit = line.removeprefix(f"  {name}").split()
        assert unit == ("M" if count >= 100_000 else "K")
        assert float(shown) == pytest.approx(count / {"M": 1e6, "K": 1e3}[unit], abs=0.005)
        assert float(shown) > 0


def test_overrides_are_shown() -> None:
    page = show(ShowJob(recipe="tiny", overrides=("model.fsq.levels=2", "model.fsq.group_size=16")))
    assert page["figures"]["tokens_per_frame"] == 8
    assert "group_size: 16" in page["text"]
    with pytest.raises(ConfigError, match="use group_size at most 8"):
        show(ShowJob(recipe="tiny", overrides=("model.fsq.levels=4", "model.fsq.group_size=9")))


def test_base16k_is_four_times_cheaper_than_paper() -> None:
    paper, base = (gflop_of(RECIPES[name]().model) for name in ("paper", "base16k"))
    assert paper["encode"] > 4 * base["encode"]
    assert paper["decode"] > 4 * base["decode"]
