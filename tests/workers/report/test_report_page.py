"""The report page as text: what it says, what it leaves out, that it escapes everything and is the same every time."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from syllabary.shards import audio
from syllabary.shards.errors import NotFoundError
from syllabary.workers.control.jobs import ReportJob
from syllabary.workers.report import chart as svg_chart
from syllabary.workers.report import media as report_audio
from syllabary.workers.report import players as report_players
from syllabary.workers.report import plots as report_plots
from syllabary.workers.report import words as report_words
from syllabary.workers.report.card import SCORES, Metric, ReportCard, Score, publish_card
from syllabary.workers.report.page import publish_page, report_page
from tests.helpers.report_card_example import METRICS, RATE, SYSTEMS, write_example_report

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
WER = Metric(name="wer", label="WER", unit="%", direction="lower", description="Words.", low=0)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("style", "script"):
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.found if (value := attrs.get(name))]


def page_of(out: Path, card: ReportCard) -> Elements:
    publish_card(str(out), card)
    return Elements(Path(publish_page(str(out))).read_text())


def test_the_same_report_is_the_same_page_wherever_it_lies(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        write_example_report(tmp_path / name)
        pages.append(Path(publish_page(str(tmp_path / name))).read_bytes())
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]


def test_every_link_has_its_target_and_nothing_leads_outside(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_example_report(tmp_path))
    targets = set(page.attributes("id"))
    assert {link.removeprefix("#") for link in page.attributes("href") if link != "data:,"} <= targets
    assert all(source.startswith("data:") for source in page.attributes("src"))
    assert len(page.attributes("id")) == len(targets)


def test_what_comes_from_outside_is_text_and_never_markup(tmp_path: Path) -> None:
    card = write_example_report(tmp_path)
    evil = card.model_copy(
        update={
            "title": HOSTILE,
            "systems": tuple(s.model_copy(update={"label": HOSTILE, "description": HOSTILE}) for s in card.systems),
            "metrics": tuple(m.model_copy(update={"label": HOSTILE, "unit": HOSTILE}) for m in card.metrics),
            "samples": tuple(
                s.model_copy(update={"utterance_id": HOSTILE, "transcript": HOSTILE, "speaker": HOSTILE})
                for s in card.samples
            ),
            "worst": tuple(w.model_copy(update={"utterance_id": HOSTILE, "transcript": HOSTILE}) for w in card.worst),
            "failures": tuple(f.model_copy(update={"reason": HOSTILE, "metric": HOSTILE}) for f in card.failures),
            "notes": (HOSTILE,),
            "provenance": card.provenance.model_copy(update={"model": {HOSTILE: HOSTILE}, "tokenizer": HOSTILE}),
        }
    )
    page = page_of(tmp_path, evil)
    tags = [tag for tag, _ in page.found]
    assert tags.count("script") == 1
    assert all("onerror" not in attrs for _, attrs in page.found)
    assert tags.count("img") == sum(len(sample.sounds) - 1 for sample in card.samples)  # all but the floor
    assert page.text.count(HOSTILE) > 20


def test_what_was_not_measured_leaves_no_empty_section(tmp_path: Path) -> None:
    card = write_example_report(tmp_path)
    bare = card.model_copy(
        update={
            "behaviour": None, "cost": None, "differences": (), "samples": (), "worst": (), "failures": (),
            "scores": tuple(s.model_copy(update={"low": None, "high": None, "num_speakers": 1}) for s in card.scores),
            "corpus": card.corpus.model_copy(update={"num_speakers": 1, "num_utterances": 1}),
        }
    )  # fmt: skip
    page = page_of(tmp_path, bare)
    ids = page.attributes("id")
    assert not {"behaviour", "cost", "paired"} & set(ids)
    assert {link.removeprefix("#") for link in page.attributes("href") if link != "data:,"} <= set(ids)
    assert "1 utterance" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text.lower().split()


def test_the_page_says_what_the_tokens_carry_beside_the_time(tmp_path: Path) -> None:
    card = write_example_report(tmp_path)
    text = Elements(Path(publish_page(str(tmp_path))).read_text()).text
    assert "Beside the time" in text and "403 bit/s" in text
    assert "Digits given the place" in text and "402.7" in text
    assert "83 % of the digits' variance lies between utterances at one place" in text
    assert "What the place does not explain of the latents is as much as 17.6 of 128 dims can vary." in text
    unknown = {"digit_entropy_given_place": None, "between_clips": None, "rank_given_place": None}
    publish_card(str(tmp_path), card.model_copy(update={"rate": card.rate.model_copy(update=unknown)}))
    text = Elements(Path(publish_page(str(tmp_path))).read_text()).text
    assert (
        "Beside the time" not in text
        and "given the place" not in text
        and "not explain" not in text
        and "None" not in text
    )


def test_a_metric_without_any_score_is_a_dash_not_an_error(tmp_path: Path) -> None:
    card = write_example_report(tmp_path)
    page = page_of(tmp_path, card.model_copy(update={"metrics": (*card.metrics, WER)}))
    assert "WER" in page.text


def test_values_that_are_no_numbers_are_not_drawn(tmp_path: Path) -> None:
    write_example_report(tmp_path)
    clean = Path(publish_page(str(tmp_path))).read_bytes()
    odd = [{"system": "ours", "metric": "estoi", "value": value} for value in (None, float("nan"), float("inf"))]
    table = pq.read_table(tmp_path / SCORES)
    rows = table.to_pylist() + [dict.fromkeys(table.column_names) | row for row in odd]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / SCORES)
    assert Path(publish_page(str(tmp_path))).read_bytes() == clean


def test_many_systems_differ_by_colour_or_shape(tmp_path: Path) -> None:
    card = write_example_report(tmp_path, num_samples=0)
    peers = tuple(SYSTEMS[1].model_copy(update={"name": f"peer{n}", "label": f"Peer number {n}"}) for n in range(12))
    many = card.model_copy(update={"systems": (*SYSTEMS, *peers)})
    styles = report_plots.style_of(many)
    drawn = [styles[system.name] for system in many.systems if system.kind in ("ours", "baseline")]
    assert len(set(drawn)) == len(drawn)
    assert "Peer number 11" in page_of(tmp_path, many).text


def test_a_missing_sound_is_named_and_no_page_appears(tmp_path: Path) -> None:
    card = write_example_report(tmp_path)
    (tmp_path / card.samples[1].sounds[2].path).unlink()  # of a baseline
    with pytest.raises(NotFoundError, match=card.samples[1].sounds[2].path):
        publish_page(str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_the_page_is_bounded(tmp_path: Path) -> None:
    card = write_example_report(tmp_path, num_samples=6)
    one = sum((tmp_path / sound.path).stat().st_size for sound in card.samples[1].sounds)
    small = tmp_path / "small.html"
    written = report_page(ReportJob(report=str(tmp_path), out=str(small), max_sound_mb=3 * one / 1e6))
    assert written == {"page": str(small), "size_bytes": small.stat().st_size}
    page = Elements(small.read_text())
    shown = [name for name in page.attributes("id") if name.startswith("sample-")]
    assert "sample-0" in shown and "sample-1" in shown  # a typical one and one of the worst: neither crowds out
    assert len(shown) < 6
    assert f"{6 - len(shown)} samples are only in the report's folder" in page.text


def test_a_long_utterance_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_example_report(tmp_path, num_samples=1)
    monkeypatch.setattr(report_players, "MAX_CLIP_S", 1.0)
    players = report_players.build_players(card, lambda path: (tmp_path / path).read_bytes())
    assert len(players[0].takes) == len(SYSTEMS) - 1
    for take in players[0].takes:
        samples, rate = audio.decode(base64.b64decode(take.sound_uri.partition(",")[2]))
        assert len(samples) == rate == RATE
    assert "the first 1.0 of 1.5 s" in page_of(tmp_path, card).text


def with_scores(card: ReportCard, **means: float) -> ReportCard:
    """The card with these means: ``wer`` and ``estoi`` of ours, ``original_wer`` of the originals."""
    kept = [s for s in card.scores if s.metric not in ("wer", "estoi")]
    for name, mean in means.items():
        system, _, metric = name.rpartition("_")
        score = Score(system=system or "ours", metric=metric, mean=mean, low=None, high=None, num_utterances=8,
                      num_speakers=4)  # fmt: skip
        kept.append(score)
    return card.model_copy(update={"scores": tuple(kept), "metrics": (*METRICS, WER)})


def test_without_transcripts_the_recogniser_is_held_against_itself(tmp_path: Path) -> None:
    card = with_scores(write_example_report(tmp_path, num_samples=0), wer=88.0, estoi=0.6)
    heard = tuple(s.model_copy(update={"metric": "wer_self"}) if s.metric == "wer" else s for s in card.scores)
    own = WER.model_copy(update={"name": "wer_self", "label": "WER against itself"})
    verdict = report_words.verdict(card.model_copy(update={"scores": heard, "metrics": (*METRICS, own)}))
    assert verdict.level == "not intelligible"
    assert "a word error rate of 88\u00a0% against what a recogniser hears in the original" in verdict.sentences[0]


def test_the_rulers_that_say_most_come_first_and_the_others_are_kept(tmp_path: Path) -> None:
    card = with_scores(write_example_report(tmp_path), wer=88.0, estoi=0.6, original_wer=9.0)
    assert [metric.name for metric in report_words.key_metrics(card)] == ["wer", "estoi", "pesq_wb"]
    assert [metric.name for metric in report_words.other_metrics(card)] == ["mel_distance"]
    text = page_of(tmp_path, card).text
    assert text.index("The other metrics") > text.index("88.0")
    assert "Mel distance" in text


@pytest.mark.parametrize(
    ("means", "level"),
    [
        ({"wer": 97.0, "original_wer": 9.0, "estoi": 0.6}, "not intelligible"),
        ({"wer": 60.0, "original_wer": 9.0, "estoi": 0.6}, "barely intelligible"),
        ({"wer": 30.0, "original_wer": 9.0, "estoi": 0.9}, "intelligible with effort"),
        ({"wer": 12.0, "original_wer": 9.0, "estoi": 0.9}, "intelligible"),
        ({"wer": 12.0, "original_wer": 9.0, "estoi": 0.2}, "not intelligible"),
        ({"wer": 97.0, "original_wer": 80.0, "estoi": 0.9}, "intelligible"),  # the recogniser is deaf
        ({"estoi": 0.19}, "not intelligible"),
        ({}, None),
    ],
)
def test_the_verdict_follows_the_strictest_ruler(tmp_path: Path, means: dict[str, float], level: str | None) -> None:
    verdict = report_words.verdict(with_scores(write_example_report(tmp_path, num_samples=0), **means))
    assert verdict.level == level
    if level is None:
        assert "was not measured" in verdict.sentences[0]


def test_metrics_that_rest_on_a_part_of_the_utterances_say_on_how_many(tmp_path: Path) -> None:
    card = with_scores(write_example_report(tmp_path, num_samples=0), wer=12.0, estoi=0.9)
    total = card.corpus.num_utterances

    def evidence(**counts: int) -> str:
        scores = [s.model_copy(update={"num_utterances": counts.get(s.metric, total)}) for s in card.scores]
        return report_words.verdict(card.model_copy(update={"scores": tuple(scores)})).sentences[-1]

    everything = evidence()
    assert everything.startswith(f"Measured on {total} utterances (") and " of them" not in everything
    assert f"speakers, WER on {total // 2} of them" in evidence(wer=total // 2)
    assert f"speakers, ESTOI and WER on {total // 2} of them" in evidence(wer=total // 2, estoi=total // 2)
    assert f", ESTOI on {total // 4} of them, WER on {total // 2} of them" in evidence(wer=total // 2, estoi=total // 4)


def test_the_verdict_says_where_it_stands_against_codec2(tmp_path: Path) -> None:
    card = write_example_report(tmp_path, num_samples=0)
    assert "Against Codec2 700C at 700 bit/s it is worse by ESTOI (−0.15)" in report_words.verdict(card).sentences[1]
    level = [d.model_copy(update={"exceeds": d.metric != "estoi"}) for d in card.differences]
    equal = report_words.verdict(card.model_copy(update={"differences": tuple(level)})).sentences[1]
    assert equal.endswith("not to be told apart by ESTOI.")
    blurred = [d.model_copy(update={"low": None, "high": None, "exceeds": False}) for d in card.differences]
    assert (
        "too few speakers" in report_words.verdict(card.model_copy(update={"differences": tuple(blurred)})).sentences[1]
    )
    better = write_example_report(tmp_path, num_samples=0, shift=0.4)
    assert "it is better by ESTOI (+0.25)" in report_words.verdict(better).sentences[1]


def test_the_verdict_says_when_noise_is_as_good(tmp_path: Path) -> None:
    card = write_example_report(tmp_path, num_samples=0)
    assert "White noise" not in " ".join(report_words.verdict(card).sentences)
    like = next(d for d in card.differences if d.metric == "estoi")
    beside = like.model_copy(update={"baseline": "noise", "exceeds": False})
    noisy = card.model_copy(update={"differences": (*card.differences, beside)})
    assert "It is no better than White noise by ESTOI." in report_words.verdict(noisy).sentences
    lifted = [
        s.model_copy(update={"mean": 0.6}) if (s.system, s.metric) == ("noise", "estoi") else s for s in card.scores
    ]
    high = noisy.model_copy(update={"scores": tuple(lifted)})
    assert "White noise" not in " ".join(report_words.verdict(high).sentences), "above Codec2 it is no floor"


def test_a_rounded_zero_has_no_sign() -> None:
    estoi = METRICS[1]
    assert report_words.figure(estoi, -0.001) == "0.00"
    assert report_words.figure(estoi, -0.25) == "−0.25"
    assert report_words.figure(estoi, 0.25, signed=True) == "+0.25"
    assert report_words.figure(estoi, None) == "–"
    assert report_words.figure(WER, 58.04) == "58.0"


def test_without_codec2_the_baseline_of_the_nearest_rate_stands_in(tmp_path: Path) -> None:
    card = write_example_report(tmp_path, num_samples=0)
    rest = card.model_copy(update={"systems": tuple(s for s in SYSTEMS if s.name != "codec2_700c")})
    reference = report_words.reference(rest)
    assert reference is not None and reference.name == "opus_6k"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_every_value_falls_into_its_panel(values: list[float]) -> None:
    scale = svg_chart.x_scale(values)
    assert all(svg_chart.LEFT <= scale(value) <= svg_chart.WIDTH - svg_chart.RIGHT for value in values)
    assert all(scale.low <= tick <= scale.high or tick == pytest.approx(scale.low) for tick in scale.ticks())
    assert 1 <= len(scale.ticks()) <= 12


@given(st.lists(st.floats(1e-3, 1e7), min_size=1, max_size=9))
def test_logarithmic_ticks_are_there_and_grow(values: list[float]) -> None:
    scale = svg_chart.x_scale(values, log=True)
    ticks = scale.ticks()
    pixels = [scale(tick) for tick in ticks]
    assert pixels == sorted(set(pixels))
    assert ticks and all(scale.low <= tick <= scale.high for tick in ticks)


@given(st.lists(st.floats(svg_chart.TOP, svg_chart.HEIGHT - svg_chart.BOTTOM), min_size=1, max_size=6))
def test_names_keep_apart_and_stay_above_the_axis(heights: list[float]) -> None:
    placed = svg_chart.spaced(sorted(heights), gap=12)
    assert all(below - above >= 12 - 1e-6 for above, below in pairwise(placed))
    assert placed[-1] <= svg_chart.HEIGHT - svg_chart.BOTTOM - 3
    far = [30.0, 80.0, 130.0]
    assert svg_chart.spaced(far, gap=12) == far


def test_names_of_curves_and_of_levels_never_lie_over_each_other(tmp_path: Path) -> None:
    """A tokenizer no better than noise has its curves where the floors are."""
    rows = write_example_report(tmp_path, num_samples=0).behaviour.resilience  # type: ignore[union-attr]
    flat = [row.model_copy(update={"mean": 0.01}) for row in rows]
    levels = [("Codec2 700C", 0.5), ("White noise", 0.0), ("Original reversed", 0.02)]
    drawn = str(report_plots.resilience(METRICS[1], flat, levels))
    end = svg_chart.WIDTH - svg_chart.RIGHT
    names = re.findall(rf'<text class="[^"]+" x="{end}" y="([\d.]+)" text-anchor="end">([^<]+)<', drawn)
    assert {text for _, text in names} == {"Codec2 700C", "White noise", "Original reversed", "as is", "repaired"}
    heights = sorted(float(y) for y, _ in names)
    assert all(below - above >= 11 for above, below in pairwise(heights))


def test_what_was_not_measured_goes_by_the_name_of_its_ruler(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_example_report(tmp_path))
    assert "Not measured: WER (no utterance has a transcript; give --transcripts)." in page.text


def test_a_tone_is_ink_at_its_height_and_silence_is_clear() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    loudest_db = report_audio.level_of(tone, RATE)
    ink = opacity(report_audio.spectrogram_uri(tone, RATE, loudest_db))
    height = report_audio.ROWS - 1 - ink.mean(axis=1).argmax()
    assert height * report_audio.HIGHEST_HZ / report_audio.ROWS == pytest.approx(1000, abs=100)
    assert ink.max() == 255
    silence = np.zeros(RATE, np.float32)
    assert opacity(report_audio.spectrogram_uri(silence, RATE, loudest_db)).max() == 0


def opacity(uri: str) -> np.ndarray:
    """uint8 [rows, columns] of a picture's alpha."""
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    return np.asarray(picture)[..., 3]


def test_salience_is_a_step_a_frame_and_ends_with_the_sound() -> None:
    points = report_audio.salience_points([0.0, 1.0, 0.5], frame_s=0.4, duration_s=1.0)
    assert points == "0.0,100.0 400.0,100.0 400.0,0.0 800.0,0.0 800.0,50.0 1000.0,50.0"
    assert report_audio.salience_points([0.2, 0.9], frame_s=0.4, duration_s=0.4) == "0.0,80.0 1000.0,80.0"
