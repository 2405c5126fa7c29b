"""The ``--where`` language: SQL comparisons over the columns of a row, parsed here, evaluated by pyarrow.

    speaker = '19' and (duration_s > 3 or snr_db is not null)
    utterance_id in ('a', 'b')        source like 'small/%'        start_s between 60 and 90

Operators: ``= == != <> < <= > >=``, ``[not] in (...)``, ``[not] like``, ``[not] between a and b``, ``is [not] null``,
``and or not`` and parentheses. A null meets no comparison and no ``not`` of one, as in SQL; ``is null`` finds it.
Nothing is executed: there are columns, literals and these words only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from syllabary.shards.archive.parts import SOURCE_SUFFIX
from syllabary.shards.errors import InputError

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<operator><=|>=|<>|!=|==|[=<>(),]))"
)
_MOST_COMPARISONS = 1000  # pyarrow walks a chain of them by recursion, and crashes on ten thousands
_WORDS = {"and", "or", "not", "in", "like", "between", "is", "null"}
_COMPARE: dict[str, Callable[[pc.Expression, Any], pc.Expression]] = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _seconds(samples: pc.Expression) -> pc.Expression:
    return samples.cast(pa.float64()) / pc.field("sample_rate").cast(pa.float64())


_DERIVED: dict[str, tuple[pc.Expression, tuple[str, ...]]] = {
    "start_s": (_seconds(pc.field("start_sample")), ("start_sample", "sample_rate")),
    "duration_s": (_seconds(pc.field("num_samples")), ("num_samples", "sample_rate")),
    "end_s": (
        _seconds(pc.field("start_sample") + pc.field("num_samples")),
        ("start_sample", "num_samples", "sample_rate"),
    ),
}


def _source() -> pc.Expression:
    """An archive leaves ``source`` null where ``recording_id`` tells it."""
    return pc.coalesce(pc.field("source"), pc.binary_join_element_wise(pc.field("recording_id"), SOURCE_SUFFIX, ""))


@dataclass(frozen=True)
class Condition:
    """A parsed expression: what pyarrow filters by, and the columns it reads."""

    expression: pc.Expression
    columns: frozenset[str]

    def __and__(self, other: Condition) -> Condition:
        return Condition(self.expression & other.expression, self.columns | other.columns)


def parse_where(text: str, schema: pa.Schema) -> Condition:
    """The condition in ``text`` over the columns of ``schema``, and ``start_s``, ``duration_s``, ``end_s``.

    Raises:
        InputError: it does not parse, names no column, or compares a column with a literal of another type.
    """
    try:
        return _Parser(text, schema).parse()
    except RecursionError:
        what = f"invalid --where: above {_MOST_COMPARISONS:,} comparisons, or too deep in parentheses or `not`"
        raise InputError(what, value=f"{text[:40]}...", fix="write it flat, with `in (...)`") from None


class _Parser:
    """Recursive descent over the tokens of one expression.

    ``not`` is carried down to the comparisons, with `and` and `or` exchanged: a negated ``in`` has to leave out nulls,
    which pyarrow's ``isin`` takes for false.
    """

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._schema = text, schema
        self._tokens = self._split(text)
        self._at = 0
        self._negated = False
        self._num_comparisons = 0
        self._columns: set[str] = set()

    def parse(self) -> Condition:
        expression = self._either()
        if self._at < len(self._tokens):
            raise self._error(f"did not expect {self._tokens[self._at][1]!r}")
        return Condition(expression, frozenset(self._columns))

    def _split(self, text: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(f"does not parse at {text[at:].strip()[:20]!r}")
            kind = match.lastgroup or ""
            value = match[kind]
            is_word = kind == "name" and value.lower() in _WORDS
            tokens.append(("word", value.lower()) if is_word else (kind, value))
            at = match.end()
        return tokens

    def _either(self) -> pc.Expression:
        left = self._both()
        while self._took("word", "or"):
            right = self._both()
            left = left & right if self._negated else left | right
        return left

    def _both(self) -> pc.Expression:
        left = self._one()
        while self._took("word", "and"):
            right = self._one()
            left = left | right if self._negated else left & right
        return left

    def _one(self) -> pc.Expression:
        if self._took("word", "not"):
            self._negated = not self._negated
            inner = self._one()
            self._negated = not self._negated
            return inner
        if self._took("operator", "("):
            inner = self._either()
            self._need("operator", ")")
            return inner
        return self._comparison()

    def _comparison(self) -> pc.Expression:
        self._num_comparisons += 1
        if self._num_comparisons > _MOST_COMPARISONS:
            raise RecursionError
        name = self._need("name", None)
        column, literal_type = self._column(name)
        if self._took("word", "is"):
            negated = self._took("word", "not") != self._negated
            self._need("word", "null")
            return column.is_valid() if negated else column.is_null()
        has_not = self._took("word", "not")
        negated = has_not != self._negated
        found = self._set_or_pattern(column, name, literal_type)
        if found is None:
            sign = self._need("operator", None)
            if has_not or sign not in _COMPARE:
                raise self._error(f"expected a comparison after {name!r}, found {sign!r}")
            found = _COMPARE[sign](column, self._literal(name, literal_type))
        return ~found & column.is_valid() if negated else found

    def _set_or_pattern(self, column: pc.Expression, name: str, literal_type: type) -> pc.Expression | None:
        if self._took("word", "in"):
            self._need("operator", "(")
            values = [self._literal(name, literal_type)]
            while self._took("operator", ","):
                values.append(self._literal(name, literal_type))
            self._need("operator", ")")
            return column.isin(values)
        if self._took("word", "like"):
            return pc.match_like(column, self._literal(name, str))
        if self._took("word", "between"):
            low = self._literal(name, literal_type)
            self._need("word", "and")
            return (column >= low) & (column <= self._literal(name, literal_type))
        return None

    def _column(self, name: str) -> tuple[pc.Expression, type]:
        if name in _DERIVED:
            expression, columns = _DERIVED[name]
            self._columns.update(columns)
            return expression, float
        plain = [f.name for f in self._schema if not pa.types.is_list(f.type)]
        if name not in plain:
            raise self._error(f"there is no column {name!r}; columns: {', '.join([*plain, *_DERIVED])}")
        self._columns.add(name)
        if name == "source" and "recording_id" in plain:
            self._columns.add("recording_id")
            return _source(), str
        is_text = pa.types.is_string(self._schema.field(name).type)
        return pc.field(name), str if is_text else float

    def _literal(self, name: str, literal_type: type) -> str | float | int:
        kind, value = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")
        wanted = "string" if literal_type is str else "number"
        if kind != wanted:
            what = "a text in '...'" if literal_type is str else "a number"
            raise self._error(f"{name} is compared with {value}; expected {what}")
        self._at += 1
        if kind == "string":
            return value[1:-1].replace("''", "'")
        is_integer = not re.search(r"[.eE]", value) and abs(float(value)) < 1 << 63
        return int(value) if is_integer else float(value)

    def _took(self, kind: str, value: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == (kind, value):
            self._at += 1
            return True
        return False

    def _need(self, kind: str, value: str | None) -> str:
        found = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")
        if found[0] != kind or (value is not None and found[1] != value):
            wanted = {"name": "a column", "operator": "a comparison"}[kind] if value is None else repr(value)
            raise self._error(f"expected {wanted}, found {found[1]}")
        self._at += 1
        return found[1]

    def _error(self, why: str) -> InputError:
        return InputError(f"invalid --where: {why}", value=self._text, fix="example: \"speaker = '19'\"")
