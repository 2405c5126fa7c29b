"""An error is one line: what, the value, what was expected, how to mend it; it survives the way between processes."""

from __future__ import annotations

import pickle

import pytest

from syllabary.shards.errors import ConfigError, DamageError, InputError, JobError, SyllabaryError, UnavailableError


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "no speech"),
        ({"value": "x"}, "no speech: 'x'"),
        ({"value": 0}, "no speech: 0"),
        ({"fix": "check SOURCE"}, "no speech; check SOURCE"),
        ({"expected": "a folder", "value": ["a"]}, "no speech: ['a']; expected a folder"),
        ({"fix": "mend\nit", "expected": "a folder", "value": "a"}, "no speech: 'a'; expected a folder; mend it"),
    ],
)
@pytest.mark.parametrize("kind", [SyllabaryError, InputError, ConfigError, DamageError, UnavailableError])
def test_the_line(kind: type[SyllabaryError], given: dict, line: str) -> None:
    error = kind("no speech", **given)
    assert str(error) == line
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == line and again.exit_code == kind.exit_code


def test_the_message_of_a_job_may_show_its_last_lines() -> None:
    error = pickle.loads(pickle.dumps(JobError("it failed\n\nlast", ("a", "b"), may_pass=True)))
    assert str(error) == "it failed\n\nlast" and error.last_lines == ("a", "b") and error.may_pass
    assert str(JobError("away", fix="start it")) == "away; start it"
