"""The audit of what is installed: ``python infra/audit_dependencies.py``, part of ``make check``.

Offline: every installed distribution is pinned in constraints.txt at its version, every pin and every direct dependency
is known to the other, requirements are consistent (what ``pip check`` says), and every licence is of a kind that this
project may be used with. Known vulnerabilities need a database on the network: ``--online`` asks pip-audit where it is
installed, and says so where it is not; nothing is concluded from its absence.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OURS = "syllabary"
TOOLS = {"pip", "setuptools", "wheel"}
ALLOWED = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla Public|HPND|Unlicense|Public Domain|CC0|Zlib|zlib|"
    r"0BSD|BSL|Boost|CNRI|PostgreSQL|LGPL|Lesser General Public|Academic Free|AFL|Dual License",
    re.IGNORECASE,
)
REFUSED = re.compile(r"(?<!L)(?<!Lesser )\b(A?GPL|(Affero )?General Public License)", re.IGNORECASE)


def main() -> int:
    """Print every finding; 0 when there is none."""
    installed = {canonicalize_name(d.metadata["Name"]): d for d in distributions()}
    pins = _pins((ROOT / "constraints.txt").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    findings = [
        *_unpinned(installed, pins),
        *_undeclared(project, pins),
        *_inconsistent(installed, told("without_dependencies")),
        *_licences(installed, told("licences")),
    ]
    for finding in findings:
        print(f"audit: {finding}")
    if "--online" in sys.argv[1:]:
        findings += _vulnerabilities()
    print(f"audit: {len(installed)} distributions, {len(pins)} pins, {len(findings)} findings")
    return 1 if findings else 0


def told(section: str) -> dict[str, str]:
    """Distributions that somebody has looked at: name to why it may be as it is."""
    table = tomllib.loads((ROOT / "infra" / "audit.toml").read_text())[section]
    return {canonicalize_name(name): why for name, why in table.items()}


def _pins(text: str) -> dict[str, str]:
    lines = [line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def _unpinned(installed: dict[str, Distribution], pins: dict[str, str]) -> list[str]:
    found = []
    for name, distribution in sorted(installed.items()):
        if name == OURS or (name in TOOLS and name not in pins):
            continue
        version = distribution.version.partition("+")[0]  # "+cpu" is a build of the version, not another one
        if name not in pins:
            found.append(f"{name} {version} is installed and not in constraints.txt")
        elif pins[name].partition("+")[0] != version:
            found.append(f"{name} {version} is installed, constraints.txt has {pins[name]}")
    return found


def _undeclared(project: dict, pins: dict[str, str]) -> list[str]:
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    direct = {canonicalize_name(Requirement(text).name) for group in groups for text in group}
    return [f"the direct dependency {name} is not in constraints.txt" for name in sorted(direct - set(pins) - {OURS})]


def _inconsistent(installed: dict[str, Distribution], incomplete: dict[str, str]) -> list[str]:
    """What ``pip check`` looks at, without starting pip."""
    found = []
    for name, distribution in sorted(installed.items()):
        for text in () if name in incomplete else distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            needed = installed.get(canonicalize_name(requirement.name))
            if needed is None:
                found.append(f"{name} needs {requirement.name}, which is not installed")
            elif not requirement.specifier.contains(needed.version, prereleases=True):
                found.append(f"{name} needs {requirement}, installed is {needed.version}")
    return found


def _licences(installed: dict[str, Distribution], looked_at: dict[str, str]) -> list[str]:
    found = []
    for name, distribution in sorted(installed.items()):
        if name in looked_at or name == OURS:
            continue
        text = licence_of(distribution)
        if not text:
            found.append(f"{name} states no licence: look, and add it to infra/audit.toml")
        elif REFUSED.search(text) or not ALLOWED.search(text):
            found.append(f"{name} has the licence {text[:60]!r}: look, and add it to infra/audit.toml or remove it")
    return found


def licence_of(distribution: Distribution) -> str:
    """What a distribution says of its licence: the expression, the classifiers, or the first line of the text."""
    metadata = distribution.metadata
    classifiers = [c for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    stated = metadata["License-Expression"] or "; ".join(c.rpartition(" :: ")[2] for c in classifiers)
    if stated and stated != "OSI Approved":
        return str(stated)
    lines = [line.strip() for line in str(metadata["License"] or "").splitlines() if line.strip()]
    return lines[0] if lines else ""


def _vulnerabilities() -> list[str]:
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "-r", str(ROOT / "constraints.txt")]
    finished = subprocess.run([*command, "--no-deps"], capture_output=True, text=True, check=False)
    if "No module named" in finished.stderr:
        print("audit: known vulnerabilities were NOT looked up: pip-audit is not installed")
        return []
    if finished.returncode not in (0, 1):
        print(f"audit: known vulnerabilities were NOT looked up: {finished.stderr.strip().splitlines()[-1]}")
        return []
    return [line for line in finished.stdout.splitlines() if line.strip()] if finished.returncode else []


if __name__ == "__main__":
    sys.exit(main())
