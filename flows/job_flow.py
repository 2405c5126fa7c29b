"""A flow whose parameters are a job's: the form that Prefect shows is made of the job's own declaration.

Prefect takes types, defaults and limits from a flow's signature and the descriptions from its docstring; both are
written here. Its server checks before it stores a run, so a URI with keys in it (shards/errors.py) gets no further
than the form.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_type_hints

from prefect import Flow, flow
from pydantic import Field
from pydantic.fields import FieldInfo

from syllabary.workers.control.declaration import in_order, shown
from syllabary.workers.recipes.named import RECIPES

P = ParamSpec("P")
R = TypeVar("R")
URI_PATTERN = r"^(s3://[^/ @?]+(/[^?]*)?|file:///.*|([^:]|:[^/])+)$"


def job_flow(work: Callable[P, R]) -> Flow[..., R]:
    """Make a flow of a function whose first parameter is a job (or other declared parameters), by its own name.

    The flow takes the job's fields, those that must be given first, then the function's further parameters.
    """
    declared, *further = _parameters_of(work)
    fields = [_parameter(name, field) for name, field in in_order(declared.annotation)]
    signature = inspect.Signature(sorted([*fields, *further], key=lambda one: one.default is not one.empty))

    def run(*args: Any, **kwargs: Any) -> R:
        values = signature.bind(*args, **kwargs).arguments
        own = {one.name: values.pop(one.name) for one in further if one.name in values}
        return work(declared.annotation(**values), **own)

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__name__, run.__qualname__, run.__module__ = work.__name__, work.__qualname__, work.__module__
    run.__doc__ = f"{inspect.getdoc(work)}\n\nArgs:\n" + "".join(_described(signature))
    code = work.__code__  # Prefect looks for a flow's file there
    run.__code__ = run.__code__.replace(co_filename=code.co_filename, co_firstlineno=code.co_firstlineno)
    return flow(name=work.__name__.replace("_", "-"))(run)


def _parameters_of(work: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(work, include_extras=True)
    return [one.replace(annotation=hints[one.name]) for one in inspect.signature(work).parameters.values()]


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
    limits = Field(**{"description": field.description, "examples": field.examples, **_limits(field)})
    annotation = Annotated[field.annotation, *field.metadata, limits]  # type: ignore[name-defined]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _limits(field: FieldInfo) -> dict[str, Any]:
    """What a form checks beyond the job's own limits, and suggests."""
    extra = shown(field)
    if extra.uri:
        return {"examples": [extra.uri], "pattern": URI_PATTERN, "min_length": 1}
    return {"json_schema_extra": {"enum": sorted(RECIPES)}} if extra.names_recipe else {}


def _described(signature: inspect.Signature) -> Iterator[str]:
    for name, one in signature.parameters.items():
        fields = [extra for extra in get_args(one.annotation) if isinstance(extra, FieldInfo)]
        yield f"    {name}: {fields[-1].description}\n"
