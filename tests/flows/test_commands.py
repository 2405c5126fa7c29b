"""No parameter is unreachable: what is typed and what a form is filled with arrives in the job, field by field."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command
from typer.testing import CliRunner

from syllabary.flows import cli, run_command
from syllabary.shards import outputs
from syllabary.workers.control import jobs, submit
from syllabary.workers.control.run_layout import PipelineLayout

COMMANDS = get_command(cli.app).commands  # type: ignore[attr-defined]
DECLARED = {"run": jobs.PipelineParameters, **{job.verb: job for job in jobs.declared_jobs()}}
FLOWS = {
    "shard_corpus": jobs.ShardJob, "pretrain_encoder": jobs.PretrainJob, "train_tokenizer": jobs.TrainCodecJob,
    "tokenize_shards": jobs.TokenizeJob, "verify_archive": jobs.VerifyJob, "restore_audio": jobs.RestoreJob,
    "evaluate_tokenizer": jobs.EvaluateJob,
}  # fmt: skip
SPECIAL = {"rates": {"shard": 2.5, "decode": 3.0}, "recipe": "base16k", "top_percent": 7.5, "weights": (0.5, 0.75)}
TYPED = {
    ("plan", "rates"): "shard=2.5,decode=3", ("evaluate", "metrics"): "metrics-1,metrics-2",
    ("evaluate", "splits"): "train,valid", ("salient", "top_percent"): "7.5%",
}  # fmt: skip


class HandedOver(Exception):  # noqa: N818 (it ends a run, nothing is wrong)
    """Carries the job that was about to be run."""


def another_value(name: str, field: FieldInfo) -> Any:
    """A value that is not the field's default, and that no other field of the job has."""
    if name in SPECIAL:
        return SPECIAL[name]
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != field.default)
    if get_origin(kind) is tuple:
        choices = get_args(get_args(kind)[0])
        return choices[:2] or (f"{name}-1", f"{name}-2")
    match kind:
        case _ if kind is bool:
            return not field.default
        case _ if kind is int:
            return 3 + (field.default if isinstance(field.default, int) else 0)
        case _ if kind is float:
            return 0.25
    return f"{name}-1"


def values_of(parameters: type[BaseModel]) -> dict[str, Any]:
    return {name: another_value(name, field) for name, field in parameters.model_fields.items()}


def typed(verb: str, values: dict[str, Any]) -> Iterator[str]:
    """The words of the command line, by what the command itself says that it takes."""
    for parameter in COMMANDS[verb].params:
        if parameter.name not in values:
            continue
        value, is_named = values[parameter.name], parameter.opts[0].startswith("--")
        if isinstance(value, bool):
            yield (parameter.opts if value else parameter.secondary_opts)[0]
            continue
        value = TYPED.get((verb, str(parameter.name)), value)
        texts = value if isinstance(value, tuple) else (value,)
        for text in texts:
            yield from ([parameter.opts[0]] if is_named else [])
            yield str(text)


@pytest.mark.parametrize("verb", DECLARED)
def test_every_field_of_a_job_can_be_typed(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []

    def hand_over(job: Any) -> None:
        handed.append(job)
        raise HandedOver

    monkeypatch.setattr(submit, "submit", hand_over)
    monkeypatch.setattr(run_command, "run_command", hand_over)
    wanted = values_of(DECLARED[verb])
    ended = CliRunner().invoke(cli.app, [verb, *typed(verb, wanted)])
    assert isinstance(ended.exception, HandedOver), ended.output
    assert handed[0].model_dump() == wanted


@pytest.mark.parametrize("name", FLOWS)
def test_every_field_of_a_job_is_in_the_form_of_its_flow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"syllabary.flows.{name}")

    def hand_over(job: Any) -> None:
        raise HandedOver(job)

    monkeypatch.setattr(module, "run_job", hand_over)
    monkeypatch.setattr(module, "output_lock", lambda *uris: contextlib.nullcontext())
    wanted, flow = values_of(FLOWS[name]), getattr(module, name)
    further = {"tokenizer": "tokenizer-1"} if name == "train_tokenizer" else {}
    form = parameter_schema(flow).properties
    assert set(form) == set(wanted) | set(further)
    with pytest.raises(HandedOver) as ended:
        flow.fn(**flow.validate_parameters({**wanted, **further}))
    assert ended.value.args[0].model_dump() == wanted


def test_the_form_says_what_the_job_says() -> None:
    from syllabary.flows.tokenize_shards import tokenize_shards

    form = parameter_schema(tokenize_shards).properties
    assert form["max_quarantined_percent"]["maximum"] == 100 and form["max_quarantined_percent"]["default"] == 5.0
    assert form["num_workers"]["description"].startswith("At most so many processes at once")
    assert parameter_schema(tokenize_shards).required == ["shards", "tokenizer", "archive"]


def test_the_last_lines_of_a_run_say_what_its_tokens_carry(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    latents, digits = "92.1 % of their variance lies between clips", "1.89 of 2 bits per dim"
    carried = {"latents": latents, "digits": digits, "heard": "ESTOI 0.31"}
    outputs.mark_done(str(tmp_path), {"headline": carried})
    run_command._say_where(PipelineLayout(str(tmp_path)))
    lines = capfd.readouterr().err.splitlines()
    for name, figure in carried.items():
        assert any(name in line and figure in line for line in lines), name
    assert lines[-1].endswith(f"{tmp_path}/summary.html")
