"""Evaluate one utterance with every system, by every metric: the Ray actor of ``evaluate``.

What comes out follows from the utterance, the tokenizer and the options alone, and is published whole under the
utterance's number: any number of processes may do the same utterance.
"""

from __future__ import annotations

import json
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from syllabary.shards import audio, dataset, store
from syllabary.shards.errors import SyllabaryError
from syllabary.workers.control.jobs import EvaluateJob
from syllabary.workers.evaluation.baselines import Codec, Degraded, Speech, standard_baselines
from syllabary.workers.evaluation.scoring import RATE, Original, Unscored
from syllabary.workers.report.card import UTTERANCES, System

if TYPE_CHECKING:
    from syllabary.workers.evaluation.scoring_models import Scorer
    from syllabary.workers.tokenizer.tokenizer import Encoded, Tokenizer

OURS = "ours"
MAX_UTTERANCE_S = 60.0  # what a metric takes grows with the length: longer ones go to the ledger
EVERY_METRIC = "every metric"


@dataclass(frozen=True)
class Item:
    """An utterance to evaluate: its number in this report, its index row, its transcript where there is one."""

    number: int
    row: Mapping[str, Any]
    transcript: str | None
    probe: bool

    @property
    def utterance_id(self) -> str:
        """The utterance's name."""
        return str(self.row["utterance_id"])

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return float(self.row["num_samples"] / self.row["sample_rate"])

    def to_json(self) -> str:
        """Encode as JSON, to pass on."""
        return json.dumps({"number": self.number, "row": self.row, "transcript": self.transcript, "probe": self.probe})

    @classmethod
    def from_json(cls, text: str) -> Item:
        """The inverse of :meth:`to_json`."""
        return cls(**json.loads(text))


def result_uri(out: str, number: int) -> str:
    """Where the result of an utterance lies."""
    return store.join(out, UTTERANCES, f"{number:06}.json")


@dataclass
class Timer:
    """Counts CPU-seconds of this process and its children by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Count the block's CPU time to ``name``."""
        started = _cpu_s()
        try:
            yield
        finally:
            self.seconds[name] += _cpu_s() - started


def _cpu_s() -> float:
    """CPU-seconds of this process and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Ours:
    """The tokenizer as a system."""

    def __init__(self, tokenizer: Tokenizer, title: str) -> None:
        self.tokenizer = tokenizer
        self.system = System(name=OURS, label=title, kind="ours", description="The tokenizer under test.")
        self._last: tuple[str, Encoded] | None = None

    def encode(self, speech: Speech) -> Encoded:
        """Tokens of the utterance; kept for a second call."""
        if self._last is None or self._last[0] != speech.utterance_id:
            self._last = speech.utterance_id, self.tokenizer.encode(speech.stored, speech.stored_rate)
        return self._last[1]

    def __call__(self, speech: Speech) -> Degraded:
        """The utterance through tokens and back."""
        decoded = self.tokenizer.decode(self.encode(speech).tokens, len(speech.stored), speech.stored_rate)
        return Degraded(audio.resample(decoded, speech.stored_rate, RATE))


def other_codecs(job: EvaluateJob, tokenizer: Tokenizer) -> tuple[Codec, ...]:
    """The baselines, ceilings and floors, then the peers given by checkpoint."""
    from syllabary.workers.evaluation.peers import load_peers

    return (*standard_baselines(tokenizer.sample_rate), *load_peers(job.peers))


def read_speech(shards_uri: str, row: Mapping[str, Any]) -> Speech:
    """The utterance of an index row.

    Raises:
        DamageError, FormatError: it is damaged.
    """
    return Speech.of(str(row["utterance_id"]), *audio.decode(dataset.read_utterance(shards_uri, row)))


class UtteranceEvaluator:
    """The Ray actor: tokenizer, codecs and metric models loaded once; takes one utterance after another."""

    def __init__(self, job_json: str, metrics: tuple[str, ...], title: str) -> None:
        import torch

        from syllabary.workers.evaluation.behaviour import Prober
        from syllabary.workers.evaluation.peers import wavlm_folder
        from syllabary.workers.evaluation.scoring_models import Scorer
        from syllabary.workers.tokenizer.tokenizer import Tokenizer

        torch.set_num_threads(1)
        self._job = EvaluateJob.model_validate_json(job_json)
        self._tokenizer = Tokenizer.load(self._job.tokenizer)
        self._ours = Ours(self._tokenizer, title)
        self._codecs = (self._ours, *other_codecs(self._job, self._tokenizer))
        self._scorer: Scorer = Scorer(metrics, wavlm_folder(self._job.peers))
        self._prober = Prober(self._tokenizer)
        self._metrics = metrics

    def publish(self, item_json: str) -> dict[str, Any]:
        """Publish one utterance's result; gives its number, CPU-seconds, and the one line of a failure or ""."""
        item = Item.from_json(item_json)
        timer = Timer()
        try:
            result = self.evaluate(item, timer)
            store.publish_bytes(result_uri(self._job.out, item.number), store.pretty_json(result))
        except SyllabaryError as error:
            return {"number": item.number, "error": f"{item.utterance_id}: {error}", "cpu_s": "{}"}
        return {"number": item.number, "error": "", "cpu_s": json.dumps(timer.seconds)}

    def evaluate(self, item: Item, timer: Timer) -> dict[str, Any]:
        """Evaluate one utterance; returns its result as it is published.

        Raises:
            SyllabaryError: the utterance cannot be read.
        """
        result: dict[str, Any] = {"utterance_id": item.utterance_id, "scores": {}, "problems": [], "num_bits": {}}
        result |= {"tokens": None, "salience": None, "probe": None}
        if item.duration_s > MAX_UTTERANCE_S:
            reason = f"longer than {MAX_UTTERANCE_S:.0f} s: shard it into shorter utterances"
            result["problems"] = [_problem(codec.system.name, EVERY_METRIC, reason) for codec in self._codecs]
            return result
        with timer.measuring("read"):
            speech = read_speech(self._job.shards, item.row)
        original = Original(speech.samples, item.transcript)
        for codec in self._codecs:
            self._score(codec, speech, original, result, timer)
        if OURS in result["scores"]:
            encoded = self._ours.encode(speech)
            result |= {"tokens": encoded.tokens.tolist(), "salience": encoded.salience.tolist()}
        if item.probe and OURS in result["scores"]:
            with timer.measuring("behaviour"):
                result["probe"] = self._prober(speech, original)
        return result

    def _score(self, codec: Codec, speech: Speech, original: Original, result: dict[str, Any], timer: Timer) -> None:
        name = codec.system.name
        try:
            with timer.measuring(f"system {name}"):
                degraded = codec(speech)
        except Exception as error:  # one codec's failure on one file is reported, the others go on
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            result["problems"].append(_problem(name, EVERY_METRIC, reason))
            return
        if degraded.num_bits is not None:
            result["num_bits"][name] = degraded.num_bits
        result["scores"][name] = scores = {}
        for family in self._scorer.families:
            try:
                with timer.measuring(family):
                    measured = self._scorer(family, original, degraded.samples)
            except Unscored as error:
                result["problems"].append(_problem(name, family, str(error)))
                continue
            scores.update({metric: [float(m.value), float(m.weight)] for metric, m in measured.items()})


def _problem(system: str, metric: str, reason: str) -> dict[str, str]:
    return {"system": system, "metric": metric, "reason": reason}
