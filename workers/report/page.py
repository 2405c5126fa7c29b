"""``report.html``: the report card as one file that needs no network, to look at and to listen to.

Everything of the report is escaped by the template (utterance ids and transcripts come from anywhere); a content policy
in the page itself forbids every request, and every style and script but the two whose hashes it names. Equal reports
give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from syllabary.shards import store
from syllabary.shards.store import Folder
from syllabary.shards.words import counted
from syllabary.workers.control.jobs import ReportJob
from syllabary.workers.control.log import say
from syllabary.workers.report import plots, words
from syllabary.workers.report.card import PAGE, Metric, ReportCard, read_card
from syllabary.workers.report.catalogue import METRICS
from syllabary.workers.report.players import MAX_SOUND_MB, Player, build_players
from syllabary.workers.report.scores import read_scores

ASSETS = Path(__file__).parent / "assets"
MAX_FAILURES = 50
HEADLINE = (*words.WORD_ERRORS, "estoi")
ARROWS = {"higher": "↑", "lower": "↓"}
RATES = (
    ("payload", "Payload", "log2 of the levels, a dim: what the code can carry"),
    ("nominal", "Nominal", "log2 of the vocabulary, a token"),
    ("digit_entropy", "Entropy of the digits", "zeroth order, for each dim"),
    ("digit_entropy_given_place", "Digits given the place", "what they tell beside the time: 0 for a clock"),
    ("token_entropy", "Entropy of the tokens", "zeroth order, for each position; low where frames are few"),
    ("context_entropy", "With context", "code length of an adaptive model that has seen what came before"),
    ("language_model", "Language model", "what the given model needs for these utterances, each from its beginning"),
    ("as_uint16", "As uint16", "16 bits per token"),
    ("stored", "Stored", "the token columns of a real archive part"),
    ("stored_all", "Stored, all columns", "with ids, lengths, checksums and salience"),
)


def report_page(job: ReportJob) -> dict[str, Any]:
    """Write the page of the report at ``job.report`` again, from what lies there; returns where it is, and its size."""
    page = render(job.report, job.max_sound_mb)
    uri = job.out or store.join(job.report, PAGE)
    store.publish_bytes(uri, page)
    say("report", f"wrote {uri}")
    return {"page": uri, "size_bytes": len(page)}


def publish_page(out: str) -> str:
    """Write ``report.html`` of the report at ``out``, from what lies there; returns its URI. Raises as `render`."""
    uri = store.join(out, PAGE)
    store.publish_bytes(uri, render(out))
    return uri


def render(out: str, max_sound_mb: float = MAX_SOUND_MB) -> bytes:
    """The page of the report at ``out``, as UTF-8 HTML.

    Raises:
        NotFoundError: no report, or a file that it names is missing.
        FormatError: a damaged one.
    """
    card = read_card(out)
    players = build_players(card, Folder(out).read, max_sound_mb)
    return render_page(card, read_scores(out), players)


def template(name: str, folder: Path = ASSETS) -> Template:
    """A page's template: all that is put into it is escaped, and what it asks for must be there."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render_page(card: ReportCard, scores: pa.Table, players: Sequence[Player]) -> bytes:
    """The page as UTF-8 HTML.

    Args:
        card: the report.
        scores: columns system, metric, value; one row per utterance.
        players: what can be heard.
    """
    names = _names(card) | _words(card) | inlined("page.css", "style") | inlined("page.js", "script")
    page = template("page.html").render(
        card=card,
        players=players,
        playable={player.sample.number for player in players},
        num_left_out=len(card.samples) - len(players),
        has_salience=any(take.salience for player in players for take in player.takes),
        plots=_plots(card, scores),
        **names,
    )
    return page.encode()


def inlined(asset: str, name: str) -> dict[str, Any]:
    """The text of a style or script, and the hash by which the content policy knows it."""
    text = (ASSETS / asset).read_text()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {name: Markup(text), f"{name}_hash": f"sha256-{digest}"}


def _names(card: ReportCard) -> dict[str, Any]:
    """What the template calls."""
    metrics = {metric.name: metric for metric in card.metrics}
    systems = {system.name: system.label for system in card.systems}
    return {
        "metrics": card.metrics,
        "key_metrics": words.key_metrics(card),
        "other_metrics": words.other_metrics(card),
        "systems": words.ordered(card),
        "metric_of": metrics.__getitem__,
        "label_of": lambda name: metrics[name].label if name in metrics else systems.get(name, name.replace("_", " ")),
        "system_of": lambda name: systems.get(name, name),
        "figure": words.figure,
        "counted": counted,
        "better": plots.better,
        "rate_of": plots.rate_of,
        "key": plots.key,
        "arrows": ARROWS,
        "times": times,
        "MAX_FAILURES": MAX_FAILURES,
    }


def _words(card: ReportCard) -> dict[str, Any]:
    made = card.provenance
    configuration = {"options": made.options, "packages": made.packages, "model": made.model}
    return {
        "verdict": words.verdict(card),
        "facts": facts(card),
        "absences": absences(card),
        "contents": contents(card),
        "rates": [
            (label, rate, meaning) for name, label, meaning in RATES if (rate := getattr(card.rate, name)) is not None
        ],
        "digests": (
            ("Tokenizer", made.tokenizer),
            ("Encoder digest", made.encoder_digest),
            ("Decoder digest", made.decoder_digest),
            ("Shards", card.corpus.shards),
            ("Shards digest", made.shards_digest),
        ),
        "configuration": json.dumps(configuration, indent=2, sort_keys=True, ensure_ascii=False),
    }


def contents(card: ReportCard) -> list[tuple[str, str]]:
    """(id, name) of the sections that this card fills."""
    sections = [
        ("summary", "Summary", True), ("rate", "Rate", True), ("listen", "Listen", True),
        ("worst", "Where it fails", True), ("spread", "Spread", True), ("paired", "Differences", card.differences),
        ("code", "The code", True), ("behaviour", "Behaviour", card.behaviour), ("cost", "Cost", card.cost),
        ("made", "How it was made", True),
    ]  # fmt: skip
    return [(name, title) for name, title, filled in sections if filled]


def facts(card: ReportCard) -> list[tuple[str, str]]:
    """The handful of figures that stand under the title."""
    name = words.ours(card).name
    pairs = [("Payload", f"{card.rate.payload:,.0f} bit/s"), ("Stored", f"{card.rate.stored:,.0f} bit/s")]
    if (given := card.rate.digit_entropy_given_place) is not None:
        pairs.insert(1, ("Beside the time", f"{given:,.0f} bit/s"))
    for metric in words.key_metrics(card):
        if metric.name in HEADLINE and (score := card.score(name, metric.name)):
            pairs.append((metric.label, words.with_unit(metric, score.mean)))
    for point in card.cost.points if card.cost else ():
        if point.batch_size == 1:
            pairs.append((f"{point.direction.capitalize()}s at", f"{times(point.real_time_factor)} real time"))
    return pairs


def times(real_time_factor: float) -> str:
    """``41×``, ``0.8×``: how many times faster than the speech lasts."""
    speed = 1 / max(real_time_factor, 1e-9)
    return f"{speed:,.0f}×" if speed >= 10 else f"{speed:.1f}×"


def _plots(card: ReportCard, scores: pa.Table) -> dict[str, Markup]:
    values = _values(scores)
    drawn = {
        "code": _joined([plots.level_use(card.rate), plots.position_use(card.rate)]),
        "agreement": _joined(_agreement(card)),
        "resilience": _joined(_resilience(card)),
    }
    for suffix, metrics in (("", words.key_metrics(card)), ("_rest", words.other_metrics(card))):
        drawn[f"rate{suffix}"] = _joined([plots.rate_distortion(card, metric) for metric in metrics])
        drawn[f"spread{suffix}"] = _joined([plots.spread(card, metric, values) for metric in metrics])
        drawn[f"paired{suffix}"] = _joined([_paired(card, metric) for metric in metrics])
    return drawn


def _joined(panels: Sequence[Markup | None]) -> Markup:
    return Markup("\n").join(panel for panel in panels if panel is not None)


def _values(scores: pa.Table) -> dict[tuple[str, str], list[float]]:
    values: dict[tuple[str, str], list[float]] = {}
    for row in scores.select(["system", "metric", "value"]).to_pylist():
        if row["value"] is not None and math.isfinite(row["value"]):
            values.setdefault((row["system"], row["metric"]), []).append(row["value"])
    return values


def _paired(card: ReportCard, metric: Metric) -> Markup | None:
    """Against the baselines and the floors; the ceilings, far away, stand in the table alone."""
    rows = {d.baseline: d for d in card.differences if d.metric == metric.name}
    chosen = [rows[s.name] for s in words.ordered(card) if s.name in rows and s.kind != "ceiling"]
    return plots.paired(card, metric, chosen) if chosen else None


def _agreement(card: ReportCard) -> list[Markup]:
    rows = card.behaviour.agreement if card.behaviour else ()
    groups = [[row for row in rows if row.disturbance == name] for name in plots.DISTURBANCES]
    return [plots.agreement(group) for group in groups if group]


def _resilience(card: ReportCard) -> list[Markup]:
    rows = card.behaviour.resilience if card.behaviour else ()
    groups = [(metric, [row for row in rows if row.metric == metric.name]) for metric in card.metrics]
    return [plots.resilience(metric, group, _levels(card, metric)) for metric, group in groups if group]


def _levels(card: ReportCard, metric: Metric) -> list[tuple[str, float]]:
    """Where the codec to compare with and the floors lie."""
    shown = [system for system in card.systems if system.kind == "floor" or system == words.reference(card)]
    return [(system.label, score.mean) for system in shown if (score := card.score(system.name, metric.name))]


def absences(card: ReportCard) -> list[tuple[str, list[str]]]:
    """(reason, metrics): what nothing has a value of, one line a reason."""
    labels, by_reason = {metric.name: metric.label for metric in METRICS}, dict[str, list[str]]()
    for absent in card.absent:
        by_reason.setdefault(absent.reason, []).append(labels.get(absent.metric, absent.metric))
    return list(by_reason.items())
