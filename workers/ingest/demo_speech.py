"""The demo corpus: recorded voice prompts from Debian's packages (CC BY-SA 3.0), as FLAC by speaker and language.

No root is needed: the packages are downloaded and unpacked into a temporary folder. When apt has no package lists of
its own yet, a private copy of the lists is made. 2,780 prompts, 126 minutes; Allison Smith speaks two of the five
languages, so there are four speakers, of whom the split hash holds June Wallack out.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np

from syllabary.shards import outputs, store
from syllabary.shards.audio import encode_flac
from syllabary.shards.errors import InputError, StorageError
from syllabary.workers.control.jobs import FetchDemoJob
from syllabary.workers.control.log import Progress, say

RATE = 16_000
VOICES = {  # package language -> (folder in the package, speaker, language)
    "en": ("en_US_f_Allison", "allison_smith", "english"),
    "es": ("es_MX_f_Allison", "allison_smith", "spanish"),
    "fr": ("fr_CA_f_June", "june_wallack", "french"),
    "it": ("it_IT_m_Carlo", "carlo", "italian"),
    "ru": ("ru_RU_f_IvrvoiceRU", "ivrvoice", "russian"),
}
LICENCE = """# The demo speech

Voice prompts of the Asterisk project, from the Debian packages asterisk-core-sounds-{en,es,fr,it,ru}-g722,
licensed CC BY-SA 3.0 (each package's /usr/share/doc/PACKAGE/copyright). Decoded from G.722 at 64 kbit/s and stored as
16 kHz FLAC; nothing else was changed.
"""
_OWN_SPEECH = "use your own speech: make run SOURCE=<folder or URI>"


def fetch_demo_speech(job: FetchDemoJob) -> dict[str, Any]:
    """Fetch the demo corpus to a local folder unless it is there.

    Raises:
        InputError: this is not a Debian-family machine, or ``out`` is not a local folder.
        StorageError: the packages cannot be fetched.
    """
    if store.is_remote(job.out):
        raise InputError("the demo speech needs a local folder", value=job.out, expected="a path")
    if done := outputs.read_done(job.out):
        return done
    _require_apt()
    with tempfile.TemporaryDirectory(prefix="syllabary-demo-") as folder:
        unpacked = _unpack_packages(Path(folder))
        summary = _write_corpus(unpacked, Path(store.normalize(job.out)))
    outputs.mark_done(job.out, summary)
    return summary


def _require_apt() -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise InputError(
            "the demo speech comes from Debian packages and this machine has no",
            value=missing[0],
            expected="a Debian-family machine",
            fix=_OWN_SPEECH,
        )


def _unpack_packages(folder: Path) -> Path:
    packages = [f"asterisk-core-sounds-{language}-g722" for language in VOICES]
    say("fetch", f"{len(packages)} Debian packages with recorded prompts")
    if _apt(["download", *packages], folder).returncode != 0:
        options = _private_lists(folder)
        _apt([*options, "update"], folder)
        download = _apt([*options, "download", *packages], folder)
        if download.returncode:
            raise StorageError(
                f"apt-get could not download the demo speech ({_error_of(download.stderr)})",
                fix=f"check the network, or {_OWN_SPEECH}",
            )
    unpacked = folder / "unpacked"
    for package in sorted(folder.glob("*.deb")):
        command = ["dpkg-deb", "-x", str(package), str(unpacked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StorageError(
                f"dpkg-deb could not unpack {package.name} ({_error_of(done.stderr)})",
                fix=f"free some space in TMPDIR, try again, or {_OWN_SPEECH}",
            )
    return unpacked


def _apt(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["apt-get", "-q", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def _private_lists(folder: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    return ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]


def _error_of(text: str) -> str:
    """The line that says what went wrong; apt-get lists checksums and dates below it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if line.startswith("E: ")), lines[-1])


def _write_corpus(unpacked: Path, out: Path) -> dict[str, Any]:
    store.publish_bytes(str(out / "LICENCE.md"), LICENCE.encode())
    sounds = unpacked / "usr/share/asterisk/sounds"
    prompts = [(voice, path) for voice in VOICES.values() for path in sorted((sounds / voice[0]).rglob("*.g722"))]
    progress, seconds, count = Progress("fetch", len(prompts), "prompts"), 0.0, 0
    for (folder, speaker, language), path in prompts:
        relative = path.relative_to(sounds / folder)
        progress.add(1)
        samples = _decode_g722(path)
        if relative.parts[0] == "silence" or not len(samples):  # one Russian prompt is an empty file
            continue
        target = out / speaker / language / relative.with_suffix(".flac")
        store.publish_bytes(str(target), encode_flac(samples, RATE))
        seconds, count = seconds + len(samples) / RATE, count + 1
    progress.finish()
    return {"recordings": count, "seconds": round(seconds, 3), "speakers": len({v[1] for v in VOICES.values()})}


def _decode_g722(path: Path) -> np.ndarray:
    with av.open(str(path), format="g722") as container:
        blocks = [np.zeros(0, np.int16), *(frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0))]
    return np.concatenate(blocks).astype(np.float32) / 32768
