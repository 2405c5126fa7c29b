"""The script for whoever has a GPU for ten minutes, rehearsed on the CPU: every line of it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "infra" / "benchmarks" / "bench_gpu.py"


@pytest.mark.long
def test_all_of_it_runs_on_the_cpu_and_the_bare_steps_learn_what_the_projects_learn() -> None:
    command = [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = dict(re.findall(r"^\| ([\w, :]+?) \| (.+) \|$", done.stdout, re.MULTILINE))
    stages = ("pretrain", "codec", "codec, adversarial")
    kinds = ("project", "project compiled", "eager", "graph", "compiled")
    assert {f"{stage}: {kind}" for stage in stages for kind in kinds} <= rows.keys()
    assert {f"{phase}: {kind}" for phase in ("bottleneck", "vocoder") for kind in kinds[:2]} <= rows.keys()
    assert {"crops and augmentation alone", "encode fp32", "decode fp32", "encode bf16", "decode bf16"} <= rows.keys()
    losses = {name: row.split(" | ")[2] for name, row in rows.items() if name.startswith("pretrain")}
    assert len(losses) == 5 and len(set(losses.values())) == 1, losses
    assert re.search(r"^\| 2 clips of 2 frames, random weights \| 0 of 512 \| 0\.0e\+00", done.stdout, re.MULTILINE)
    assert "measured on a CPU with" in done.stdout or "without instructions for bf16" in done.stdout


def test_a_line_that_fails_says_why_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import bench_gpu
        import torch
    finally:
        sys.path.remove(str(SCRIPT.parent))

    def failing() -> str:
        raise RuntimeError("no graph for this\nand more")

    bench = bench_gpu.Bench(None, torch.device("cpu"), 1, 1, 1, None, [])
    bench.attempt("graph", failing)
    bench.attempt("eager", lambda: "1.0 | 2 | 3")
    assert capsys.readouterr().out.splitlines() == [
        "| graph | failed: RuntimeError: no graph for this | 0.00 |",
        "| eager | 1.0 | 2 | 3 | 0.00 |",
    ]
    assert bench.failures == ["graph"]
