"""How many small faults the tests notice: random changes of the code, one at a time, each against its own tests.

    python -m infra.benchmarks.studies.mutations --out FOLDER [--count 100] [--seed 0] [--limit-s 90] [--near]
    python -m infra.benchmarks.studies.mutations --out FOLDER --count 40 --seed 4 --list
    python -m infra.benchmarks.studies.mutations --out FOLDER --count 40 --seed 4 --tests TESTS.json

A change is a flipped comparison, a number off by one, another operator, a condition turned round, or a statement left
out, somewhere in ``TARGETS``. It is made in a copy of the project below FOLDER, never here. Messages of errors and log
lines are left alone: no behaviour hangs on them.

A change is tried on the tests written for its file, by their names, then on those for its folder and, where these let
it pass, on the others that concern its target, then on those of ``LAST``; with ``--near``, on the first two alone. Of
each file of tests it is found out once, without a change, which test reaches which line and how long it takes
(``calls/``): only those that reach the changed line are run, the quickest first, until one fails or the limit is
reached. Processes that a test starts are watched too. A line that no test was seen to reach is tried on the tests that
call its function or anything of its file. FOLDER/mutations.jsonl grows by a line a change, with how many tests the
limit left out; a second call goes on where the first ended. Survivors are changes that no test noticed: a fault of the
tests, a change that alters nothing, or one for a test that was left out. Where Ray did not start, because the machine
was busy, nothing is learned: the tests are run once more, and the change is undecided where that does not help. What
is undecided does not count in the share that is caught.

To find out which test reaches what takes far longer than to run the few files that are for a change. ``--list`` prints
the changes with their numbers, and ``--tests`` takes a JSON file of a number to what pytest gets for it (files, tests,
``-m`` and its words) and tries those changes on that alone; one that is caught already is not tried again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent.parent
# What is changed, and the tests that concern it.
TARGETS = {
    "shards": (
        "tests/shards", "tests/property", "tests/workers/archive", "tests/golden/test_archive_golden.py",
        "tests/golden/test_ingest_golden.py", "tests/faults/test_object_store.py",
        "tests/faults/test_ingest_bad_input.py", "tests/faults/test_ingest_storage.py",
        "tests/faults/test_safety.py", "tests/workers/ingest",
    ),
    "workers/archive": ("tests/workers/archive", "tests/shards", "tests/property"),
    "workers/training": (
        "tests/workers/training", "tests/faults/test_training_health.py", "tests/distributed",
        "tests/workers/operate/test_report_summary.py",
    ),
    "workers/evaluation/compare.py": ("tests/workers/evaluation/test_compare.py",),
}  # fmt: skip
# Tried on what the others let pass: whole trainings, which take minutes.
LAST = {
    "workers/training": ("tests/golden/test_training_golden.py", "tests/faults/test_training_bad_input.py"),
}  # fmt: skip
# Imported once, before any process is forked: what the tests need and no change touches.
PRELOADED = ("av", "fsspec", "hypothesis", "numpy", "pandas", "pyarrow.parquet", "pydantic", "pytest",
             "ray", "scipy.stats", "soundfile", "torch", "yaml")  # fmt: skip
NO_RAY = ("undecided", "Ray did not start")
SILENT = {"say", "add", "finish", "debug", "info", "warning"}  # calls that tell people, and their arguments
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One change: in which file, at which node of it (its number in a walk), and what it says before and after."""

    file: str
    node: int
    line: int
    function: str
    before: str
    after: str

    @property
    def key(self) -> str:
        """A name that stays while the code around stays."""
        text = "\n".join((self.file, str(self.node), self.before, self.after))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def changed(node: ast.AST) -> ast.AST | None:
    """The node with its one change, or None where there is none to make."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARISONS:
        new.ops[0] = COMPARISONS[type(new.ops[0])]()
    elif isinstance(new, ast.BinOp) and type(new.op) in OPERATORS and not _is_text(new):
        new.op = OPERATORS[type(new.op)]()
    elif isinstance(new, ast.BoolOp):
        new.op = ast.And() if isinstance(new.op, ast.Or) else ast.Or()
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not):
        return new.operand
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        new.value = not new.value
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        new.value += 1
    elif isinstance(new, ast.Expr | ast.AugAssign | ast.Raise | ast.Continue | ast.Break):
        return ast.Pass()
    elif isinstance(new, ast.Return) and new.value is not None and not isinstance(new.value, ast.Constant):
        new.value = ast.Constant(None)
    else:
        return None
    return new


def _is_text(node: ast.BinOp) -> bool:
    """Whether an addition joins strings, or a ``|`` joins types."""
    return any(isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str | bytes))
               for n in (node.left, node.right))  # fmt: skip


def candidates(file: str) -> Iterator[Mutation]:
    """Every change that can be made to a file."""
    tree = ast.parse((ROOT / file).read_text())
    numbers = {id(node): number for number, node in enumerate(ast.walk(tree))}
    yield from _below(tree, "", file, numbers)


def _below(node: ast.AST, function: str, file: str, numbers: dict[int, int]) -> Iterator[Mutation]:
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params", "format_spec"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _left_alone(child):
                inner = function
                if isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                    inner = f"{function}.{child.name}".lstrip(".")
                if (new := changed(child)) is not None:
                    line = getattr(child, "lineno", 0)
                    yield Mutation(file, numbers[id(child)], line, function, _text(child), _text(new))
                if not isinstance(child, ast.Raise):
                    yield from _below(child, inner, file, numbers)


def _left_alone(node: ast.AST) -> bool:
    """Docstrings, doctests' imports, what is for type checkers or told to people."""
    if isinstance(node, ast.Expr):
        call = node.value
        if isinstance(call, ast.Constant):
            return True
        if isinstance(call, ast.Call):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            return name in SILENT and not (isinstance(call.func, ast.Attribute) and name == "add")
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Assert | ast.JoinedStr)


def _text(node: ast.AST) -> str:
    line = ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]
    return line if len(line) <= 100 else line[:97] + "..."


def mutated(file: str, number: int) -> str:
    """The source of a file with the change at that node."""
    tree = ast.parse((ROOT / file).read_text())
    target = list(ast.walk(tree))[number]

    class Change(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if node is target:
                new = changed(node)
                assert new is not None
                return ast.copy_location(new, node)
            return self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Change().visit(tree)))


def files() -> list[str]:
    """The files that are changed."""
    found = [p for t in TARGETS for p in ([ROOT / t] if t.endswith(".py") else sorted((ROOT / t).rglob("*.py")))]
    return [str(p.relative_to(ROOT)) for p in found if p.name != "__init__.py"]


# What the copy has beside the project: a watcher of calls and lines, for pytest and, by sitecustomize, for every Python
# process that a test starts. Those read the name of the running test from a file and write down what is new, at once.
WATCH = """
import os, sys, threading, time
ROOT, OUT = os.environ["MUTATIONS_ROOT"], os.environ["MUTATIONS_CALLS"]
MOST_LINES = 20000  # watched of one function in one test: loops over samples would take for ever
seen, watched, child = set(), {}, None

def note(frame, event, arg):
    code = frame.f_code
    if code.co_filename.startswith(ROOT):
        add(code)
        return note_line if watched.get(code, 0) < MOST_LINES else None

def note_line(frame, event, arg):
    if event == "line":
        code = frame.f_code
        add((code, frame.f_lineno))
        watched[code] = watched.get(code, 0) + 1
        if watched[code] >= MOST_LINES:
            return None
    return note_line

def add(key):
    if child is not None:
        child.look()
        if key not in seen:
            child.tell(key)
    seen.add(key)

def name_of(key):
    code, line = key if isinstance(key, tuple) else (key, None)
    file = os.path.realpath(code.co_filename)[len(ROOT) + 1:]
    return f"{file}:{code.co_qualname.replace('.<locals>', '') if line is None else line}"

def start():
    sys.settrace(note); threading.settrace(note)

def stop():
    sys.settrace(None); threading.settrace(None)

class Child:
    def __init__(self):
        self.test, self.next, self.file = "", 0, f"{OUT}.{os.getpid()}.child"
        self.handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def look(self):
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + 0.05
            try:
                with open(OUT + ".test") as file:
                    test = file.read()
            except OSError:
                test = ""
            if test != self.test:
                self.test = test
                seen.clear(); watched.clear()

    def tell(self, key):
        name = name_of(key)
        if self.test and not name.startswith("tests/"):
            os.write(self.handle, f"{name}\\t{self.test}\\n".encode())

def watch_child():
    global child
    seen.clear(); watched.clear()
    child = Child()
    start()
"""
SITE = """
import os
if "MUTATIONS_CALLS" in os.environ:
    import mutations_watch
    mutations_watch.watch_child()
"""
PLUGIN = """
import glob, json, os, time
import pytest
import mutations_watch as watch
from mutations_watch import OUT

found, seconds, failed = {}, {}, set()
os.register_at_fork(after_in_child=watch.watch_child)

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    with open(OUT + ".new", "w") as file:
        file.write(item.nodeid)
    os.replace(OUT + ".new", OUT + ".test")
    watch.seen.clear(); watch.watched.clear()
    begin = time.monotonic()
    watch.start()
    yield
    watch.stop()
    seconds[item.nodeid] = round(time.monotonic() - begin, 3)
    for name in {watch.name_of(key) for key in list(watch.seen)}:
        if not name.startswith("tests/"):
            found.setdefault(name, {})[item.nodeid] = None

def pytest_runtest_logreport(report):
    if report.failed:
        failed.add(report.nodeid)

def pytest_sessionfinish():
    for path in glob.glob(glob.escape(OUT) + ".*.child"):
        for line in open(path, errors="replace"):
            name, _, test = line.rstrip("\\n").partition("\\t")
            if test in seconds:
                found.setdefault(name, {})[test] = None
        os.unlink(path)
    kinds = {"calls": {}, "reached": {}}
    for name, tests in found.items():
        kinds["reached" if name.rpartition(":")[2].isdigit() else "calls"][name] = list(tests)
    with open(OUT, "w") as file:
        json.dump({**kinds, "seconds": seconds, "failed": sorted(failed)}, file)
"""
VERDICT = """
import json, os

# What a machine that is busy makes of a test, whatever was changed: Ray's node does not register in its 30 s.
NO_RAY = ("Ray did not start", "timed out during startup")

def pytest_runtest_logreport(report):
    if report.failed:
        text = report.longreprtext + "".join(content for _, content in report.sections)
        with open(os.environ["MUTATIONS_FAILED"], "a") as file:
            file.write(json.dumps({"test": report.nodeid, "no_ray": any(said in text for said in NO_RAY)}) + "\\n")
"""


@dataclass(frozen=True)
class Calls:
    """The tests of each function (``file:Class.function``) and of each line (``file:line``), the seconds of each test,
    and those that fail anyway."""

    tests: dict[str, list[str]]
    reached: dict[str, list[str]]
    seconds: dict[str, float]
    failed: set[str]


class Copy:
    """The copy of the project in which changes are tried."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder = (folder / "copy").resolve(), folder
        if not self.root.exists():
            names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                                   capture_output=True, text=True).stdout.split("\0")  # fmt: skip
            for name in filter(None, names):
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        for name, text in (("mutations_watch", WATCH), ("mutations_plugin", PLUGIN), ("mutations_verdict", VERDICT),
                           ("sitecustomize", SITE)):  # fmt: skip
            (self.root / f"{name}.py").write_text(text)

    def pytest(self, arguments: list[str], limit_s: float, **env: str) -> tuple[int | None, str]:
        """Exit code (None: past the limit) and output of a run of tests; what it started is ended with it."""
        log = self.folder / "pytest.log"
        child = os.fork()
        if not child:
            self._run_tests(arguments, log, env)
        end, code = time.monotonic() + limit_s, None
        while code is None and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if code is None:
            os.waitpid(child, 0)
        return code, log.read_text(errors="replace")

    def _run_tests(self, arguments: list[str], log: Path, env: dict[str, str]) -> NoReturn:
        """The forked process: a session of its own, the copy as its folder, everything said into the log."""
        os.setsid()
        with log.open("wb") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.environ |= {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", **env}
        os.chdir(self.root)
        sys.dont_write_bytecode = True
        sys.path[:] = [str(self.root), *(p for p in sys.path if Path(p).resolve() != ROOT)]
        for name in [name for name in sys.modules if name.split(".")[0] in ("infra", "syllabary", "tests")]:
            del sys.modules[name]
        code = 3
        try:
            code = int(sys.modules["pytest"].main(["-p", "no:cacheprovider", "-q", "--tb=line", *arguments]))
        finally:
            sys.stdout.flush()
            os._exit(code)

    def calls(self, tests: Iterable[str]) -> Calls:
        """Which test of these files reaches what; a file is run once and remembered."""
        found = Calls({}, {}, {}, set())
        for test in (name for name in tests if (self.root / name).exists()):  # not those written since the copy was
            path = (self.folder / "calls" / f"{test.replace('/', '.')}.json").resolve()
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                self.pytest(["-p", "mutations_plugin", "--timeout=300", test], 3600,
                            MUTATIONS_ROOT=str(self.root), MUTATIONS_CALLS=str(path))  # fmt: skip
                print(f"{test}: called", flush=True)
            values = json.loads(path.read_text())
            for kind, kept in (("calls", found.tests), ("reached", found.reached)):
                for name, own in values[kind].items():
                    kept.setdefault(name, []).extend(own)
            found.seconds.update(values["seconds"])
            found.failed.update(values["failed"])
        return found

    def tried(self, mutation: Mutation, tests: list[str], limit_s: float, test_s: float) -> tuple[str, str]:
        """What became of the change (caught, survived, undecided in time), and by which test.

        A test of more than ``test_s`` seconds has failed: a change may make it wait for ever. One for which Ray did not
        start says nothing of the change: all are run once more then, past such failures, and where no other test fails
        and Ray does not start again the change is undecided.
        """
        path = self.root / mutation.file
        original = path.read_text()
        cache = Path(importlib.util.cache_from_source(str(path)))
        path.write_text(mutated(mutation.file, mutation.node))
        cache.unlink(missing_ok=True)
        try:
            found = self._judged(["-x", f"--timeout={test_s:g}", *tests], limit_s)
            if found == NO_RAY:
                found = self._judged([f"--timeout={test_s:g}", *tests], limit_s)
        finally:
            path.write_text(original)
        return found

    def _judged(self, arguments: list[str], limit_s: float) -> tuple[str, str]:
        """The outcome of one run of tests, and by which of them."""
        log = (self.folder / "failed.jsonl").resolve()
        log.unlink(missing_ok=True)
        code, output = self.pytest(["-p", "mutations_verdict", *arguments], limit_s, MUTATIONS_FAILED=str(log))
        if code is None:
            return "undecided", "past the limit"
        if code in (0, 5):
            return "survived", ""
        failed = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if caught := [row["test"] for row in failed if not row["no_ray"]]:
            return "caught", f"FAILED {caught[0]}"
        if failed:
            return NO_RAY
        errors = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "caught", errors[0].split(" - ")[0] if errors else "no start"


def target_of(file: str) -> str:
    """The target that a file belongs to."""
    return next(target for target in TARGETS if file == target or file.startswith(f"{target}/"))


def files_of_tests(groups: Iterable[str]) -> list[str]:
    """The files of these groups."""
    paths = [p for g in groups for p in ([ROOT / g] if g.endswith(".py") else sorted((ROOT / g).rglob("test_*.py")))]
    return list(dict.fromkeys(str(path.relative_to(ROOT)) for path in paths))


def distance(test: str, file: str) -> int:
    """How far a file of tests is from a file: 0 has its name or its inner folder's, 1 its folder or that one's name.

    >>> distance("tests/shards/ingest/test_sources.py", "shards/ingest/sources/tar.py")
    0
    >>> distance("tests/shards/ingest/test_tables.py", "shards/ingest/sources/tar.py")
    1
    >>> distance("tests/workers/archive/test_pack_writers.py", "shards/blocks/writers/parquet.py")
    0
    >>> distance("tests/shards/archive/test_audit.py", "shards/ingest/sources/tar.py")
    2
    """
    path, of_test = Path(file), Path(test)
    folders = path.parent.parts

    def has_name_of(*names: str) -> bool:
        return any(f"_{name}_" in f"{of_test.stem}_" for name in names)

    if has_name_of(path.stem, *folders[2:]):
        return 0
    is_beside = len(folders) > 1 and of_test.parent.parts[1:3] == folders[:2]
    return 1 if is_beside or has_name_of(*folders[1:2]) else 2


def tests_of(mutation: Mutation, known: Calls, budget_s: float, *, guessed: bool = False) -> tuple[list[str], int]:
    """The tests that reach the changed line, as many as run within the budget, and how many more there are.

    The quickest are taken. Those of one file follow each other, so that what they share is made once. ``guessed`` takes
    those that call the function, or else anything of its file: of an inner part of a statement, of a line behind as
    many as are watched, or of a class's or a module's own lines, it is not known who reaches them.
    """
    own = set(known.reached.get(f"{mutation.file}:{mutation.line}", ()))
    if guessed:
        own = set(known.tests.get(f"{mutation.file}:{mutation.function}", ()))
        if not own:
            own = {t for name, tests in known.tests.items() if name.startswith(mutation.file + ":") for t in tests}
    of_file, total, num_left_out = dict[str, list[str]](), 0.0, 0
    for test in sorted(own - known.failed, key=lambda t: (known.seconds[t], t)):
        total += known.seconds[test]
        if of_file and total > budget_s:
            num_left_out += 1
        else:
            of_file.setdefault(test.split("::")[0], []).append(test)
    return [test for tests in of_file.values() for test in tests], num_left_out


def rounds_of(mutation: Mutation, limit_s: float, *, only_near: bool) -> Iterator[tuple[list[str], float]]:
    """The files of tests for a change, those tried first first, and the seconds of tests that they may take."""
    target = target_of(mutation.file)
    every = files_of_tests(TARGETS[target])
    for far in range(2 if only_near else 3):
        yield [test for test in every if distance(test, mutation.file) == far], limit_s
    if not only_near:
        yield files_of_tests(LAST.get(target, ())), math.inf


def try_on(project: Copy, mutation: Mutation, tests: list[str]) -> dict[str, object]:
    """The outcome of a change that is tried on the tests that somebody chose for it."""
    outcome, by = project.tried(mutation, tests, 900, 300)
    return {"outcome": outcome, "test": by, "tried_on": tests}


def try_on_those_that_reach(project: Copy, mutation: Mutation, limit_s: float, *, only_near: bool) -> dict[str, object]:
    """The outcome of a change that is tried on the tests that were seen to reach it, the nearest first."""
    outcome, by, num_tests, num_left_out = "untested", "", 0, 0
    rounds = list(rounds_of(mutation, limit_s, only_near=only_near))
    everything = [name for names, _ in rounds for name in names]
    for names, budget_s, guessed in (*((*own, False) for own in rounds), (everything, limit_s, True)):
        if guessed and num_tests:
            break
        known = project.calls(names)
        tests, left_out = tests_of(mutation, known, budget_s, guessed=guessed)
        if not tests:
            continue
        longest_s = 60 + 3 * sum(known.seconds[test] for test in tests)
        outcome, by = project.tried(mutation, tests, longest_s, min(longest_s, 300))
        num_tests, num_left_out = num_tests + len(tests), num_left_out + left_out
        if outcome != "survived":
            break
    return {"outcome": outcome, "test": by, "num_tests": num_tests, "num_left_out": num_left_out}


def main() -> None:
    """Try the changes that are not yet in the list, then list all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the copy and the list")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=90, help="seconds of tests a change")
    parser.add_argument("--near", action="store_true", help="try only the tests written for the file or its folder")
    parser.add_argument("--list", action="store_true", help="print the changes, and try none")
    parser.add_argument("--tests", type=Path, help="JSON of a change's number to the tests to try it on, those alone")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    every = [mutation for file in files() for mutation in candidates(file)]
    chosen = random.Random(arguments.seed).sample(every, min(arguments.count, len(every)))
    print(f"{len(chosen)} of {len(every)} changes in {len(files())} files", flush=True)
    if arguments.list:
        for number, mutation in enumerate(chosen, 1):
            place = f"{mutation.file}:{mutation.line} {mutation.function}"
            print(f"{number:3} {place} {mutation.before!r} -> {mutation.after!r}")
        return
    path = arguments.out / "mutations.jsonl"
    done = {row["key"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    for name in PRELOADED:
        importlib.import_module(name)
    project = Copy(arguments.out)
    given = None if arguments.tests is None else json.loads(arguments.tests.read_text())
    for number, mutation in enumerate(chosen, 1):
        before = done.get(mutation.key)
        if given is not None and (str(number) not in given or (before and before["outcome"] == "caught")):
            continue
        if given is not None or before is None:
            begin = time.monotonic()
            if given is not None:
                found = try_on(project, mutation, given[str(number)])
            else:
                found = try_on_those_that_reach(project, mutation, arguments.limit_s, only_near=arguments.near)
            row = {"key": mutation.key, **vars(mutation), **found, "seconds": round(time.monotonic() - begin, 1)}
            done[mutation.key] = row
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        row = done[mutation.key]
        print(f"{number:3} {row['outcome']:9} {row['file']}:{row['line']} {row['before']!r} -> {row['after']!r}"
              f"  [{row['test']}]", flush=True)  # fmt: skip
    counts = Counter(done[m.key]["outcome"] for m in chosen if m.key in done)
    decided = counts.total() - counts["undecided"]
    print(f"{dict(counts)}: {100 * counts['caught'] / max(1, decided):.0f} % of {decided} caught")


if __name__ == "__main__":
    main()
