"""Declare how a field of a job is shown on a command line and in a form, once, beside the field. Free of torch and ray.

The field's type, default and description make the rest; ``flows/commands.py`` and ``flows/job_flow.py`` read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Shown:
    """The presentation of a field, beyond its type.

    Attributes:
        option: its name on the command line where that is not ``--field-name``; a flag may have ``--yes/--no``.
        positional: an argument without a name.
        separated: several values in one option, with commas between (names with their numbers as ``name=number``).
        as_text: the command line hands the text on and leaves its reading to the field (``5%``).
        uri: the field is a URI, and this is an example of it.
        names_recipe: the field is one of the named recipes.
    """

    option: str = ""
    positional: bool = False
    separated: bool = False
    as_text: bool = False
    uri: str = ""
    names_recipe: bool = False


def shown(field: FieldInfo) -> Shown:
    """The presentation of a field: what its declaration says, or the defaults."""
    return next((extra for extra in field.metadata if isinstance(extra, Shown)), Shown())


def in_order(parameters: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields by name, those that must be given first: a signature wants them so."""
    fields = parameters.model_fields.items()
    yield from ((name, field) for name, field in fields if field.is_required())
    yield from ((name, field) for name, field in fields if not field.is_required())


def option_of(parameters: type[BaseModel], name: str) -> str:
    """The name of a field on the command line: ``--start`` for ``start_s``, ``SOURCE`` where it has no name."""
    field = parameters.model_fields.get(name)
    extra = shown(field) if field else Shown()
    if extra.positional:
        return name.upper()
    return extra.option.partition("/")[0] or "--" + name.replace("_", "-")


def first_sentences(parameters: type[BaseModel]) -> str:
    """The first paragraph of a declaration's docstring, as plain text."""
    paragraph = (parameters.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(paragraph.replace("``", "").split())
