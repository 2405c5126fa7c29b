"""CPU-seconds to score one minute of speech, by metric family and by baseline, on one thread; and the memory it takes.

    python infra/benchmarks/bench_scoring.py [FILE ...]

Default files: the two sample recordings that the recogniser's package ships, 54 s of read speech. Each is cut to 12 s
pieces, scored as Codec2 1300 gives it back. CPU-seconds do not depend on what else the machine does, times would.
"""

from __future__ import annotations

import resource
from pathlib import Path

from command_line import Parser, run

from syllabary.shards import audio
from syllabary.shards.errors import NotFoundError
from syllabary.workers.evaluation.baselines import Codec2, Speech, standard_baselines
from syllabary.workers.evaluation.scoring import RATE, Original, chosen_metrics
from syllabary.workers.evaluation.scoring_models import Scorer
from syllabary.workers.evaluation.utterance import Timer

PIECE_S = 12


def default_files() -> list[Path]:
    """The recogniser's sample recordings."""
    import moonshine_voice

    return sorted((Path(moonshine_voice.__file__).parent / "assets").glob("*.wav"))


def pieces(files: list[Path]) -> list[Speech]:
    """The recordings at 16 kHz, cut."""
    found = []
    for file in files:
        samples, rate = audio.decode(file.read_bytes())
        samples = audio.resample(samples, rate, RATE)
        for start in range(0, len(samples) - RATE, PIECE_S * RATE):
            piece = samples[start : start + PIECE_S * RATE]
            found.append(Speech.of(f"{file.name}@{start}", piece, RATE))
    return found


def main() -> None:
    """Print the table."""
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    files = parser.parse_args().files or default_files()
    for file in files:
        if not file.is_file():
            raise NotFoundError("no such file", value=str(file), expected="a recording")
    import torch

    torch.set_num_threads(1)
    speeches = pieces(files)
    total_s = sum(len(speech.samples) for speech in speeches) / RATE
    timer = Timer()
    with timer.measuring("loading the models (once an actor)"):
        scorer = Scorer(chosen_metrics((), with_wavlm=False))
    loading = timer.seconds.pop("loading the models (once an actor)")
    codec = Codec2(1300)
    for speech in speeches:
        degraded, original = codec(speech), Original(speech.samples)
        for family in scorer.families:
            with timer.measuring(family):
                scorer(family, original, degraded.samples)
        for system in standard_baselines(RATE):
            with timer.measuring(f"system {system.system.name}"):
                system(speech)
    print(f"{len(speeches)} pieces, {total_s:.0f} s of speech; loading the models {loading:.1f} CPU-s, once an actor\n")
    print("| what | CPU-s a minute of speech |\n| --- | --- |")
    for name, seconds in sorted(timer.seconds.items(), key=lambda entry: -entry[1]):
        print(f"| {name} | {60 * seconds / total_s:.2f} |")
    metrics = sum(seconds for name, seconds in timer.seconds.items() if not name.startswith("system "))
    print(f"| all metrics of one system | {60 * metrics / total_s:.2f} |")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    run(main)
