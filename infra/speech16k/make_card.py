"""The card of a tokenizer that is published: its data by licence, its training, its figures with their intervals.

    python -m infra.speech16k.make_card TOKENIZER --shards URI --report URI --run URI [--run URI ...]
        [--earlier TOKENIZER] [--group NAME=REPORT ...] [--out FILE]

writes TOKENIZER/README.md (or FILE): the card that every tokenizer has, and below it what the shards say that it was
trained on, the runs that trained it, a report of held-out speech, and reports of other kinds of speech. Every figure
comes from one of them. Where the first run began with another published tokenizer (EARLIER), the trainings before it
are those of that one's card.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.speech16k.sources import Source, source_of
from syllabary.shards import dataset, outputs, store
from syllabary.shards.errors import InputError
from syllabary.shards.ingest import ledger as ingest_ledger
from syllabary.shards.store import Folder
from syllabary.shards.words import counted
from syllabary.workers.recipes.recipe import Recipe, validate
from syllabary.workers.report import words
from syllabary.workers.report.card import Metric, ReportCard, Score, System, read_card
from syllabary.workers.tokenizer.directory import CARD, CONFIG, load_tokenizer, model_card
from syllabary.workers.training.history import TIMINGS, History
from syllabary.workers.training.initial_weights import initial_digest

COMMANDS = Path(__file__).parent / "README.md"
TOLD = (
    "wer", "cer", "wer_self", "estoi", "stoi", "pesq_wb", "distill_mos", "speaker_similarity", "f0_rmse",
    "voicing_error",
)  # fmt: skip
TRAININGS = "| stage | recipe | steps | begun with | precision | hours of audio | hours | ranks x threads |"
NOT_FOR = """## What it must not be used for

- **Where a word decides**: medicine, law, emergency calls, evidence. What is restored is a likeness, and words in it
  may be others than those that were said; a transcript of restored speech is no record.
- **To tell who speaks**, or to speak as somebody else: voices come back changed, and nobody whose voice is in the data
  has agreed to be imitated.
- **To judge how somebody speaks** (accent, health, mood, age): what is lost is not lost evenly.
- As the only copy of speech that matters: keep the original. Loudness is not in the tokens, and music, noise and what
  several people say at once are not what it has learned.
"""


@dataclass
class Share:
    """What one corpus gave: seconds by split, and its speakers."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    speakers: set[str] = field(default_factory=set)


def data_section(shards: str) -> Iterator[str]:
    """Hours by corpus and licence, and where every second of the input went."""
    shares: dict[Source, Share] = defaultdict(Share)
    for row in dataset.read_index(shards).to_pylist():
        share = shares[source_of(row["source"])]
        share.seconds[row["split"]] += row["num_samples"] / row["sample_rate"]
        share.speakers.add(row["speaker"])
    yield from ("## What it is trained on", "")
    yield "| corpus | licence | speakers | hours trained on | hours held out | credit |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for source, share in sorted(shares.items(), key=lambda item: item[0].name):
        held_out = sum(seconds for split, seconds in share.seconds.items() if split != "train")
        yield (
            f"| {source.name} | {source.licence} | {len(share.speakers):,} | {share.seconds['train'] / 3600:.2f} | "
            f"{held_out / 3600:.2f} | {source.credit} |"
        )
    done = outputs.read_done(shards)
    if done is None:
        raise InputError("the shards are not complete", value=shards, fix="run `syllabary shard` again")
    yield from ("", "Where every second of the recordings went:", "", "```")
    yield from ingest_ledger.as_table(done["ledger"])
    yield from ("```", "")


def training_section(runs: list[str], earlier: str | None = None) -> Iterator[str]:
    """Steps, audio and hours of each training, and the commands that repeat them."""
    yield from ("## How it was trained", "", TRAININGS, "| --- " * TRAININGS.count(" | ") + "| --- |")
    if earlier is not None:
        yield from earlier_trainings(earlier, runs[0])
    for run in runs:
        yield _training(run)
    yield from ("", "Hours are those of the logged steps that the result rests on; validations come on top.", "")
    yield from ("The commands, from speech to this card:", "", "```", commands(), "```", "")


def earlier_trainings(earlier: str, run: str) -> list[str]:
    """The trainings that the card of ``earlier`` names, which ``run`` went on from.

    Raises:
        InputError: the run began with something else, or the card has no table of trainings.
    """
    begun = str(outputs.read_claim(run)["inputs"].get("init", "none"))
    digest = initial_digest(earlier, validate(Folder(run).read_json(CONFIG)))
    if begun != digest:
        raise InputError(
            f"{run} did not begin with {earlier}", value=begun[:12], expected=digest[:12], fix="name what it began with"
        )
    lines = iter(Folder(earlier).read(CARD).decode().splitlines())
    if TRAININGS not in lines:  # goes on to the line after it
        raise InputError("the card has no table of trainings", value=earlier, expected=TRAININGS, fix="make it again")
    next(lines)
    return list(itertools.takewhile(lambda line: line.startswith("| "), lines))


def _training(run: str) -> str:
    claim, done, folder = outputs.read_claim(run), outputs.read_done(run), Folder(run)
    if done is None:
        raise InputError("the run is not complete", value=run, fix="finish it first")
    recipe = validate(folder.read_json(CONFIG))
    audio_s, wall_s = heard(History.from_parquet(folder.read(TIMINGS)))
    train = recipe.pretrain if claim["kind"] == "pretrain" else recipe.codec
    init = str(claim["inputs"].get("init", "none"))
    return (
        f"| {claim['kind']} | {recipe.name} | {done['steps']:,} | {init[:12]} | {done['precision']} | "
        f"{audio_s / 3600:,.1f} | {wall_s / 3600:,.1f} | {train.num_workers} x {train.threads_per_worker} |"
    )


def heard(timings: History) -> tuple[float, float]:
    """Seconds of audio and of time over all logged stretches of a run."""
    steps, step_s = timings.series("timing", "step_s")
    _, rates = timings.series("timing", "audio_s_per_s")
    lengths = [step - before for before, step in zip([0, *steps], steps, strict=False)]
    spent = [length * seconds for length, seconds in zip(lengths, step_s, strict=True)]
    return sum(rate * seconds for rate, seconds in zip(rates, spent, strict=True)), sum(spent)


def commands() -> str:
    """What infra/speech16k/README.md says in its blocks of commands."""
    blocks = re.findall(r"```sh\n(.*?)```", COMMANDS.read_text(), re.DOTALL)
    return "\n".join(block.rstrip() for block in blocks)


def figures_section(card: ReportCard) -> Iterator[str]:
    """Every system by every ruler that says something, with intervals; the code's use and the cost below."""
    corpus = card.corpus
    metrics = [metric for name in TOLD for metric in card.metrics if metric.name == name]
    yield from ("## How good it is", "", " ".join(words.verdict(card).sentences), "")
    yield (
        f"Means over {counted(corpus.num_utterances, 'held-out utterance')} of "
        f"{counted(corpus.num_speakers, 'speaker')} ({corpus.duration_s / 60:.1f} min; splits "
        f"{', '.join(corpus.splits)}), in brackets 95 % intervals over speakers."
    )
    yield ""
    yield "| system | bit/s | " + " | ".join(_heading(metric) for metric in metrics) + " |"
    yield "| --- " * (len(metrics) + 2) + "|"
    for system in words.ordered(card):
        yield f"| {system.label} | {_rate(system)} | " + " | ".join(_cell(card, system, m) for m in metrics) + " |"
    yield from ("", *_use(card), *_cost(card), "")


def _heading(metric: Metric) -> str:
    return f"{metric.label}{f', {metric.unit}' if metric.unit else ''} {'↑' if metric.direction == 'higher' else '↓'}"


def _rate(system: System) -> str:
    rate = words.rate_of(system)
    return f"{rate:,.0f}" if rate else "–"


def _cell(card: ReportCard, system: System, metric: Metric) -> str:
    return with_interval(metric, card.score(system.name, metric.name))


def with_interval(metric: Metric, score: Score | None) -> str:
    """``0.52 [0.49, 0.55]``; without an interval where there are fewer than two speakers."""
    if score is None:
        return "–"
    mean = words.figure(metric, score.mean)
    if score.low is None or score.high is None:
        return mean
    return f"{mean} [{words.figure(metric, score.low)}, {words.figure(metric, score.high)}]"


def _use(card: ReportCard) -> Iterator[str]:
    rate = card.rate
    if rate.between_clips is not None and rate.digit_entropy_given_place is not None:
        bits = math.log2(len(rate.level_share))
        given_place = bits * rate.digit_entropy_given_place / rate.payload
        yield (
            f"- {100 * rate.between_clips:.1f} % of the digits' variance lies between clips at one place; a digit has "
            f"{given_place:.2f} of {bits:g} bits once the place of its frame is known."
        )
    yield f"- {rate.dead_dims} of {rate.num_dims} dims are constant; levels used a dim: {rate.level_perplexity:.2f}."
    certificate = card.behaviour.certificate if card.behaviour else ()
    if certificate:
        wrong = sum(check.num_mismatches for check in certificate)
        yield f"- Tokens that depend on their company: {wrong} of {sum(c.num_compared for c in certificate):,}."


def _cost(card: ReportCard) -> Iterator[str]:
    if card.cost is None:
        return
    machine = card.cost.machine
    for point in card.cost.points:
        yield (
            f"- To {point.direction} at batch {point.batch_size}, {counted(point.num_threads, 'thread')}: "
            f"{point.real_time_factor:.4f} s a second of speech, {point.peak_memory_mb:,.0f} MB."
        )
    yield f"- Measured on {machine.processor} ({machine.num_cores} cores), torch {machine.torch}."


def groups_section(groups: dict[str, ReportCard]) -> Iterator[str]:
    """Ours, and the original, on other kinds of speech."""
    if not groups:
        return
    present = {metric.name: metric for card in groups.values() for metric in card.metrics}
    metrics = [present[name] for name in TOLD if name in present]
    yield from ("## On other speech", "")
    yield "The originals stand beside: the recogniser is one for adult English, and errs by itself on all others."
    yield ""
    yield "| speech | utterances | speakers | system | " + " | ".join(_heading(metric) for metric in metrics) + " |"
    yield "| --- " * (len(metrics) + 4) + "|"
    for name, card in groups.items():
        for system in (words.ours(card), *(s for s in card.systems if s.name == words.ORIGINAL)):
            cells = " | ".join(_cell(card, system, metric) for metric in metrics)
            yield f"| {name} | {card.corpus.num_utterances} | {card.corpus.num_speakers} | {system.label} | {cells} |"
    yield ""


def card_of(
    tokenizer: str, shards: str, runs: list[str], report: str, groups: dict[str, str], *, earlier: str | None = None
) -> str:
    """The whole card as Markdown.

    Raises:
        InputError: a recording of no known source, an unfinished run, a report of another tokenizer, or an earlier
            tokenizer that the first run did not begin with.
    """
    files = load_tokenizer(tokenizer)
    recipe: Recipe = validate(files.recipe)
    description = Folder(tokenizer).read_json(CONFIG)
    stored_as = str(description.get("stored_as", "float32"))
    cards = {name: _own(uri, files.digests.encoder, files.digests.decoder) for name, uri in groups.items()}
    lines = [
        model_card(
            recipe.model,
            store.builtin_name(tokenizer) or recipe.name,
            files.digests.encoder,
            files.digests.decoder,
            stored_as,
        ),
        *data_section(shards),
        *training_section(runs, earlier),
        *figures_section(_own(report, files.digests.encoder, files.digests.decoder)),
        *groups_section(cards),
        NOT_FOR,
    ]
    return "\n".join(lines)


def _own(report: str, encoder: str, decoder: str) -> ReportCard:
    card = read_card(report)
    made: Any = card.provenance
    if (made.encoder_digest, made.decoder_digest) != (encoder, decoder):
        raise InputError(
            f"the report {report} is of another tokenizer, decoder digest",
            value=made.decoder_digest[:16],
            expected=decoder[:16],
            fix="evaluate this one",
        )
    return card


def main() -> int:
    """Write the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tokenizer")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--earlier", metavar="TOKENIZER")
    parser.add_argument("--group", action="append", default=[], metavar="NAME=REPORT")
    parser.add_argument("--out")
    given = parser.parse_args()
    groups = dict(pair.split("=", 1) for pair in given.group)
    out = Path(given.out) if given.out else store.local_path(given.tokenizer) / CARD
    text = card_of(given.tokenizer, given.shards, given.run, given.report, groups, earlier=given.earlier)
    out.write_text(text)
    print(f"{out}: {len(text.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
