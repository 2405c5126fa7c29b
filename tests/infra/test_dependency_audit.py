"""The audit finds each kind of mistake, and licences are read as they are stated."""

from __future__ import annotations

from importlib.metadata import Distribution
from typing import Any

import pytest

from infra import audit_dependencies as audit


class Made(Distribution):
    """A distribution of given metadata."""

    def __init__(self, name: str, version: str = "1.0", licence: str = "MIT", requires: tuple[str, ...] = ()) -> None:
        lines = [
            f"Name: {name}",
            f"Version: {version}",
            f"License: {licence}",
            *(f"Requires-Dist: {r}" for r in requires),
        ]
        self._text = "Metadata-Version: 2.1\n" + "\n".join(lines) + "\n"

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


def test_an_unpinned_and_a_wrong_version_are_found() -> None:
    installed = {"a": Made("a"), "b": Made("b", "2.0"), "torch": Made("torch", "2.13.0+cpu"), "pip": Made("pip")}
    found = audit._unpinned(installed, {"b": "1.0", "torch": "2.13.0"})
    assert found == ["a 1.0 is installed and not in constraints.txt", "b 2.0 is installed, constraints.txt has 1.0"]


def test_a_direct_dependency_without_a_pin_is_found() -> None:
    project = {"dependencies": ["Known_Name>=1"], "optional-dependencies": {"dev": ["other[extra]"]}}
    assert audit._undeclared(project, {"known-name": "1"}) == ["the direct dependency other is not in constraints.txt"]


def test_what_pip_check_finds_is_found() -> None:
    needs = ("b>=2", "c; python_version < '3'", "d; extra == 'x'", "e")
    installed = {"a": Made("a", requires=needs), "b": Made("b", "1.0")}
    assert audit._inconsistent(installed, {}) == ["a needs b>=2, installed is 1.0", "a needs e, which is not installed"]
    assert audit._inconsistent(installed, {"a": "looked at"}) == []


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True), ("Apache-2.0", True), ("BSD-3-Clause", True), ("GNU Lesser General Public License v3", True),
        ("LGPL-2.1-or-later", True), ("GPL-3.0-or-later", False), ("AGPL-3.0", False),
        ("GNU Affero General Public License v3", False), ("Proprietary", False), ("", False),
    ],
)  # fmt: skip
def test_licences(licence: str, allowed: bool) -> None:
    found = audit._licences({"a": Made("a", licence=licence)}, {})
    assert (not found) == allowed
    assert audit._licences({"a": Made("a", licence=licence)}, {"a": "looked at"}) == []


def test_pins_are_read_whatever_stands_beside_them() -> None:
    assert audit._pins("A_b==1.0\n# c==2\nd==3 ; python_version > '3'  # why\n\n") == {"a-b": "1.0", "d": "3"}


def test_every_exception_says_why_and_is_a_pin_of_ours() -> None:
    pins = audit._pins((audit.ROOT / "constraints.txt").read_text())
    for section in ("licences", "without_dependencies"):
        for name, why in audit.told(section).items():
            assert len(why) > 20 and name in pins
