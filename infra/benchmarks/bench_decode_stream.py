"""What ``decode_stream`` holds and how soon it sounds: memory of 10 s against half an hour of tokens, and its cost.

    python infra/benchmarks/bench_decode_stream.py [--tokenizer NAME] [--seconds 10 60 1800] [--chunks 0 6 1]

The tokens are those of a recording of docs/sounds, over and over, handed in frame by frame as a language model gives
them; the sound is dropped as it comes. Each row is a process of its own at one thread: processor seconds until the
first chunk is there (counted from the call, the network being loaded) and for each second of sound, and the kernel's
peak memory. ``peak mapped`` is that of a second process whose allocator maps each block of a MB or more by itself: such
blocks go back to the system once they are freed, so that what is counted is what decoding holds and not the gaps that
glibc keeps between blocks of other sizes, and it must be level from one length to the next (but for those that are
shorter than a chunk with its context). ``--chunks`` are frames a chunk, 0 the model's window,
which is what ``decode`` takes; smaller chunks are run at the first length only, as they cost more. ``waits for`` is
the sound that has to be known as tokens before the first chunk can be made: the chunk and the context behind it. The
last column is the largest difference of a sample from ``decode`` of the whole, where the length is the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import torch
from command_line import Parser, at_least, in_process, run, seconds_of_audio

from syllabary import Tokenizer

SPEECH = Path(__file__).parents[2] / "docs" / "sounds" / "1-6367-original.flac"
MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}  # a size that is set stays; glibc otherwise raises it to 32 MB


def frames_of(tokens: np.ndarray, num_frames: int) -> Iterator[np.ndarray]:
    """The frames of tokens one by one, from the first again behind the last, until there are ``num_frames``."""
    for at in itertools.islice(itertools.cycle(range(len(tokens))), num_frames):
        yield tokens[at : at + 1]


def peak_mb() -> float:
    """The most memory that this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def stream(name: str, seconds: float, chunk_frames: int, compared: bool) -> dict[str, float]:
    """Decode ``seconds`` of tokens as a stream; what it took, and its difference from the whole if that is wanted."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(name)
    wav, rate = soundfile.read(SPEECH, dtype="float32")
    tokens = tokenizer.encode(wav, rate).tokens
    hop, own_rate = tokenizer.framing.hop_length, tokenizer.sample_rate
    size = chunk_frames or tokenizer.framing.window_frames
    num_frames = round(seconds * own_rate / hop)
    loaded_mb, begin, first_s, num_samples, kept = peak_mb(), time.process_time(), 0.0, 0, []
    for chunk in tokenizer.decode_stream(frames_of(tokens, num_frames), chunk_frames=size):
        first_s = first_s or time.process_time() - begin
        num_samples += len(chunk)
        if compared:
            kept.append(chunk)
    spent_s, most_mb = time.process_time() - begin, peak_mb()
    assert num_samples == num_frames * hop
    row = {"frames": num_frames, "chunk": size, "first_s": first_s, "cost": spent_s * own_rate / num_samples,
           "waits_s": min(size + tokenizer.context_frames, num_frames) * hop / own_rate,
           "loaded_mb": loaded_mb, "peak_mb": most_mb}  # fmt: skip
    if compared:
        whole = tokenizer.decode(np.concatenate(list(frames_of(tokens, num_frames))), num_samples)
        row["difference"] = float(np.abs(np.concatenate(kept) - whole).max())
    return row


def _in_process(
    name: str, seconds: float, size: int, compared: bool, environment: Mapping[str, str]
) -> dict[str, float]:
    """What :func:`stream` gives in a process of its own."""
    asked = json.dumps([seconds, size, compared])
    row: dict[str, float] = json.loads(in_process(__file__, ["--tokenizer", name, "--one", asked], environment))
    return row


def table(name: str, lengths: list[float], chunks: list[int]) -> None:
    """Print a row for each length and size of chunk."""
    print("| sound s | frames | frames a chunk | waits for s | first sound CPU-s | CPU-s a second | MB before "
          "| peak MB | peak mapped MB | from the whole |\n|" + " --- |" * 10, flush=True)  # fmt: skip
    for seconds, size in itertools.product(lengths, chunks):
        if size and seconds != lengths[0]:
            continue
        row = _in_process(name, seconds, size, seconds == lengths[0], {})
        mapped = _in_process(name, seconds, size, False, MAPPED)
        told = ""
        if "difference" in row:
            told = f"{row['difference']:.1e}" if row["difference"] else "0, bit for bit"
        print(f"| {seconds:,.0f} | {row['frames']:,} | {row['chunk']} | {row['waits_s']:.1f} | {row['first_s']:.2f} "
              f"| {row['cost']:.3f} | {row['loaded_mb']:.0f} | {row['peak_mb']:.0f} "
              f"| {mapped['peak_mb']:.0f} | {told} |",
              flush=True)  # fmt: skip


def main() -> None:
    """Decode one stream as a process of its own, or print the table of all."""
    parser = Parser(__doc__)
    parser.add_argument("--tokenizer", default="builtin:speech16k")
    parser.add_argument("--seconds", nargs="+", type=seconds_of_audio, default=[10, 60, 1800])
    parser.add_argument("--chunks", nargs="+", type=at_least(0), default=[0, 6, 1])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        seconds, size, compared = json.loads(options.one)
        print(json.dumps(stream(options.tokenizer, seconds, size, compared)))
    else:
        table(options.tokenizer, options.seconds, options.chunks)


if __name__ == "__main__":
    run(main)
