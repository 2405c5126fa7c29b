"""A command of a job: its options are the job's fields, its help is the job's docstring."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from syllabary.shards.errors import InputError, first_fault
from syllabary.workers.control.declaration import Shown, first_sentences, in_order, option_of, shown
from syllabary.workers.control.jobs import Job

P = TypeVar("P", bound=BaseModel)


def submit_and_print(job: Job) -> None:
    """Run a job to its end and print its text, or its result as JSON."""
    from syllabary.workers.control.submit import submit

    result = submit(job)
    typer.echo(result["text"] if "text" in result else json.dumps(result, indent=2, ensure_ascii=False))


def command_of(parameters: type[BaseModel], work: Callable[..., None]) -> Callable[..., None]:
    """The function that typer makes a command of: it reads ``parameters`` and hands them to ``work``.

    What ``work`` takes beside them are options of the command alone.
    """
    _, *further = inspect.signature(work, eval_str=True).parameters.values()
    further = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in further]
    options = [_option(parameters, name, field) for name, field in in_order(parameters)]

    def command(**values: Any) -> None:
        own = {one.name: values.pop(one.name) for one in further}
        work(read(parameters, values), **own)

    command.__signature__ = inspect.Signature([*options, *further])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*options, *further)}
    command.__doc__ = first_sentences(parameters)
    return command


def read(parameters: type[P], values: dict[str, Any]) -> P:
    """The parameters that a command line gives; what it leaves out keeps its default.

    Raises:
        InputError: a value does not fit; the message names the option.
    """
    given = {name: value for name, value in values.items() if value is not None}
    given = {name: _parted(parameters, name, value) for name, value in given.items()}
    try:
        return parameters.model_validate(given)
    except ValidationError as error:
        where, message, value = first_fault(error)
        option = option_of(parameters, where.partition(".")[0])
        raise InputError(f"{option}: {message}", value=value) from error


def _parted(parameters: type[BaseModel], name: str, value: Any) -> Any:
    """``a,b`` as a list, ``a=1,b=2`` as texts by name, where the field is written so."""
    field = parameters.model_fields[name]
    if not shown(field).separated:
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if get_origin(field.annotation) is not dict:
        return parts
    pairs = [part.partition("=") for part in parts]
    if not all(sign for _, sign, _ in pairs):
        option = option_of(parameters, name)
        raise InputError(f"{option} is not name=number,...", value=value)
    return {key.strip(): number.strip() for key, _, number in pairs}


def _option(parameters: type[BaseModel], name: str, field: FieldInfo) -> inspect.Parameter:
    extra = shown(field)
    help_text = " ".join(_help(field, extra))
    if extra.positional:
        info: Any = typer.Argument(help=help_text)
    else:
        info = typer.Option(extra.option or option_of(parameters, name), help=help_text)
    default = inspect.Parameter.empty if field.is_required() else _default(field, extra)
    annotation: Any = _command_line_type(field, extra)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _help(field: FieldInfo, extra: Shown) -> Iterator[str]:
    yield (field.description or "").replace("empty for", "default")
    if extra.separated:
        yield "Several with commas between."
    elif get_origin(field.annotation) is tuple and not extra.positional:
        yield "May be repeated."


def _default(field: FieldInfo, extra: Shown) -> Any:
    value = field.get_default(call_default_factory=True)
    if extra.separated:
        return ",".join(value) or None
    if extra.as_text and value is not None:
        return f"{value:g}"
    return None if value == () else value


def _command_line_type(field: FieldInfo, extra: Shown) -> Any:
    """The type that typer reads: lists for tuples, text where the field reads it, what the field says otherwise."""
    annotation: Any = field.annotation
    is_optional = not field.is_required()
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not NoneType)
    else:
        is_optional = is_optional and field.default in (None, (), {})
    if extra.separated or extra.as_text:
        annotation = str
    elif get_origin(annotation) is tuple:
        annotation = GenericAlias(list, get_args(annotation)[:1])
    assert annotation in (str, int, float, bool) or get_origin(annotation) in (list, Literal), annotation
    return annotation | None if is_optional else annotation
