"""The state of an evaluation that its steps share."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from syllabary.shards import store
from syllabary.workers.control.jobs import EvaluateJob
from syllabary.workers.evaluation.selection import Selection
from syllabary.workers.evaluation.utterance import result_uri

if TYPE_CHECKING:
    from syllabary.workers.lm.directory import LoadedLm
    from syllabary.workers.tokenizer.tokenizer import Tokenizer


@dataclass
class Evaluation:
    """An evaluation's job, utterances, tokenizer and language model, if any, and what scoring cost in this run."""

    job: EvaluateJob
    selection: Selection
    metrics: tuple[str, ...]
    tokenizer: Tokenizer
    title: str
    language_model: LoadedLm | None = None
    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    scored_s: float = 0.0

    def result(self, number: int) -> dict[str, Any]:
        """The published result of one utterance."""
        return store.read_json(result_uri(self.job.out, number))
