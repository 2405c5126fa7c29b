"""``evaluate``: a tokenizer on held-out speech, beside baselines, as a report card of figures and sounds.

Ray spreads the utterances over actors; each publishes its utterance's result whole, under its number, and what is there
is not done again. The rest, from certificate to page, follows from the results and is made when all are there. So a run
may be killed and repeated at any time; the scores come out the same.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from syllabary.shards import outputs, store
from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder
from syllabary.shards.words import counted
from syllabary.workers.cluster.session import ray_session
from syllabary.workers.control.jobs import EvaluateJob
from syllabary.workers.control.log import Progress, say
from syllabary.workers.evaluation.evaluation import Evaluation
from syllabary.workers.evaluation.peers import peer_digest, peer_directories, require_peers, wavlm_folder
from syllabary.workers.evaluation.scoring import chosen_metrics
from syllabary.workers.evaluation.selection import select
from syllabary.workers.evaluation.utterance import Item, UtteranceEvaluator
from syllabary.workers.report.card import UTTERANCES

if TYPE_CHECKING:
    from syllabary.workers.lm.directory import LoadedLm

_WORKER_BYTES = 2 << 30  # what an actor with every model takes, with room
_TRIES = 4  # of an utterance whose worker dies: nodes go away, but some die of the utterance
_OPTIONS = ("splits", "limit", "num_probes", "num_samples", "seed", "measure_cost")


def evaluate(job: EvaluateJob) -> dict[str, Any]:
    """Score what is not scored yet, then write tables, sounds, report and page; returns the headline figures.

    Raises:
        InputError: too few utterances, an unknown metric, a package or checkpoint that is not there.
        ConflictError: the output belongs to another tokenizer, other shards or other options, or the language model is
            of another encoder's tokens.
        FormatError: an utterance cannot be read.
    """
    from syllabary.workers.evaluation.closing import write_report
    from syllabary.workers.tokenizer.directory import load_tokenizer
    from syllabary.workers.tokenizer.tokenizer import Tokenizer

    metrics = chosen_metrics(job.metrics, with_wavlm=wavlm_folder(job.peers) is not None)
    files = load_tokenizer(job.tokenizer)
    require_peers(job.peers)
    selection = select(job)
    title, model = _title(job.tokenizer, files.recipe), _language_model(job, files.digests.encoder)
    evaluation = Evaluation(job, selection, metrics, Tokenizer(files), title, model)
    _claim(evaluation)
    if orphans := store.sweep_temporary(job.out):
        say("evaluate", f"removed {orphans} half-written files of killed writers")
    _score_missing(evaluation)
    summary = write_report(evaluation)
    outputs.mark_done(job.out, summary)
    return summary


def _language_model(job: EvaluateJob, encoder_digest: str) -> LoadedLm | None:
    """The model that the job names, checked before anything is scored. Raises ConflictError: of other tokens."""
    if job.language_model is None:
        return None
    import torch

    from syllabary.workers.lm.directory import load_model
    from syllabary.workers.lm.likelihood import require_encoder

    loaded = load_model(job.language_model, torch.device("cpu"))
    require_encoder(loaded, encoder_digest)
    return loaded


def _title(uri: str, recipe: Mapping[str, Any]) -> str:
    """What the report calls the tokenizer: a builtin by its name, any other by its recipe's."""
    return store.builtin_name(uri) or str(recipe.get("name", "tokenizer"))


def _claim(evaluation: Evaluation) -> None:
    job, tokenizer = evaluation.job, evaluation.tokenizer
    inputs = {
        "encoder_digest": tokenizer.encoder_digest,
        "decoder_digest": tokenizer.decoder_digest,
        "utterances": evaluation.selection.digest,
        "peers": {name: peer_digest(folder) for name, folder in peer_directories(job.peers).items()},
    }
    if evaluation.language_model is not None:
        inputs["language_model"] = evaluation.language_model.weights_digest
    options = {name: value for name, value in job.model_dump(mode="json").items() if name in _OPTIONS}
    outputs.claim(job.out, "evaluation", inputs=inputs, config=options | {"metrics": list(evaluation.metrics)})


def _score_missing(evaluation: Evaluation) -> None:
    present = {entry.name for entry in (Folder(evaluation.job.out) / UTTERANCES).list(suffix=".json")}
    items = evaluation.selection.items
    todo = [item for item in items if f"{item.number:06}.json" not in present]
    if not todo:
        return say("evaluate", f"all {len(items)} utterances are scored")
    total_s = sum(item.duration_s for item in todo)
    say("evaluate", f"{len(todo)} of {counted(len(items), 'utterance')} to score, {total_s:,.0f} s of speech")
    progress, errors = Progress("evaluate", total_s, "s of speech"), []
    for row in _scored(evaluation, todo):
        if row["error"]:
            say("evaluate", row["error"])
            errors.append(row["error"])
            continue
        duration_s = items[row["number"]].duration_s
        progress.add(duration_s)
        evaluation.scored_s += duration_s
        for name, seconds in json.loads(row["cpu_s"]).items():
            evaluation.cpu_s[name] += seconds
    progress.finish()
    if errors:
        what = f"{len(errors)} of {len(todo)} utterances could not be scored, the others are; first: {errors[0]}"
        raise FormatError(what, fix="repair the shards, or run it again where workers died")


def _scored(evaluation: Evaluation, todo: list[Item]) -> Iterator[Mapping[str, Any]]:
    """Run the actors, one utterance each at a time; yields number, error and CPU-seconds of each that is published.

    A lost actor is started again, by Ray, and its utterance given to it again, so often as ``_TRIES`` says: a package
    that crashes on one utterance takes the process along, every time, and must not hold up the others.
    """
    job = evaluation.job
    with ray_session(num_cpus=job.num_workers):
        import psutil
        import ray

        num_workers = min(
            job.num_workers or int(ray.cluster_resources().get("CPU", 1)),
            max(1, psutil.virtual_memory().available // _WORKER_BYTES),
            len(todo),
        )
        actor_type: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=_TRIES - 1)(UtteranceEvaluator)
        arguments = (job.model_dump_json(), evaluation.metrics, evaluation.title)
        waiting = iter(todo)
        running: dict[Any, tuple[Any, Item]] = {}
        for item in itertools.islice(waiting, num_workers):
            actor = actor_type.remote(*arguments)
            running[actor.publish.remote(item.to_json())] = actor, item
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            actor, item = running.pop(ready)
            if following := next(waiting, None):
                running[actor.publish.remote(following.to_json())] = actor, following
            try:
                yield ray.get(ready)
            except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError):
                died = f"{item.utterance_id}: its worker died {_TRIES} times; if of a metric, leave it out (--metrics)"
                yield {"number": item.number, "error": died, "cpu_s": "{}"}
