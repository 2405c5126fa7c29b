"""The extras of the package: what belongs to each, and the one line that names the one that is missing, or a torch that
is too old.

The core reads archives and runs a tokenizer; Ray, Prefect and the rest are extras (pyproject.toml). A job says which it
needs (``Job.extras``), so that it is refused before it begins; what an option brings in is checked when it is imported.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from syllabary.shards.errors import ExtraError, InputError

# Modules that stand for an extra, the distinctive ones first: what several extras bring is named by the first.
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("ray", "deepspeed", "matplotlib", "tensorboard", "webrtcvad", "av", "jinja2", "markupsafe", "PIL"),
    "flows": ("prefect", "sqlalchemy", "httpx"),
    "s3": ("s3fs",),
    "lm": ("transformers", "tokenizers"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "listen": ("starlette", "uvicorn", "av", "jinja2", "markupsafe", "PIL"),
    "evaluate": ("ray", "av", "jinja2", "markupsafe", "PIL"),
}
# Of these a job can do without some, and says which: checked only where they are imported.
_OPTIONAL = {"evaluate": ("jiwer", "scipy", "pystoi", "parselmouth", "pycodec2", "moonshine_voice")}
OLDEST_TORCH = (2, 4)  # as in pyproject.toml, which an installation without its dependencies does not ask


def require_extras(extras: Sequence[str], what: str) -> None:
    """Refuse ``what`` where an extra that it needs is not installed.

    Raises:
        ExtraError: names the first module that is missing and the extra that brings it.
    """
    for extra in extras:
        for module in EXTRAS[extra]:
            if find_spec(module) is None:
                raise ExtraError(f"{what} needs a package that is not installed", module, extra)


@contextlib.contextmanager
def extras_told(what: str) -> Iterator[None]:
    """Name the extra that brings a module whose import fails in the block; other errors stay as they are.

    Raises:
        ExtraError: names module and extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        known = (*EXTRAS.items(), *_OPTIONAL.items())
        extra = next((name for name, modules in known if module in modules), None)
        if extra is None:
            raise
        raise ExtraError(f"{what} needs a package that is not installed", module, extra) from error


@contextlib.contextmanager
def torch_told() -> Iterator[None]:
    """Refuse a torch that is too old where the block has imported it, instead of what the import has failed of.

    Raises:
        InputError: names the version that is there and the oldest that does.
    """
    try:
        yield
    finally:
        version = str(getattr(sys.modules.get("torch"), "__version__", ""))
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST_TORCH:
            oldest = ".".join(map(str, OLDEST_TORCH))
            raise InputError("torch is too old", value=version, expected=f"{oldest} or newer",
                             fix=f"pip install 'torch>={oldest}'")  # fmt: skip
