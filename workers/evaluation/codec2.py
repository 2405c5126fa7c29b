"""Codec2 in a process of its own: int16 samples at 8 kHz on standard input, decoded ones on standard output.

    python -m syllabary.workers.evaluation.codec2 MODE NUM_FRAMES

The library draws random phases from one generator for the whole process, which nothing sets back: in a process that has
decoded before, the same speech sounds another way. Here every utterance meets it fresh.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from numpy.typing import NDArray


def decoded_afresh(samples: NDArray[np.int16], mode: int, num_frames: int) -> NDArray[np.int16]:
    """``num_frames`` frames of what Codec2 makes of int16 samples [num_frames * frame size]; always the same."""
    command = [sys.executable, "-m", "syllabary.workers.evaluation.codec2", str(mode), str(num_frames)]
    finished = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"codec2 {mode}: {finished.stderr.decode(errors='replace').strip()[-200:]}")
    return np.frombuffer(finished.stdout, np.int16)


def main() -> None:
    """Encode and decode what standard input gives."""
    import pycodec2

    codec, num_frames = pycodec2.Codec2(int(sys.argv[1])), int(sys.argv[2])
    frames = np.frombuffer(sys.stdin.buffer.read(), np.int16).reshape(num_frames, -1)
    for frame in frames:
        sys.stdout.buffer.write(codec.decode(codec.encode(frame)).tobytes())


if __name__ == "__main__":
    main()
