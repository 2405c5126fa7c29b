"""What "auto" means: bf16 where the processor multiplies in it, and for a run what it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from syllabary.shards.errors import DamageError
from syllabary.workers.recipes.recipe import PretrainConfig
from syllabary.workers.training import precision as training_precision
from syllabary.workers.training.precision import PRECISION_FILE, Bf16Unit, bf16_unit, settle_alone, settle_precision

CPU = torch.device("cpu")
AUTO = PretrainConfig(precision="auto")


def _fake_cpu(monkeypatch: pytest.MonkeyPatch, usable: bool, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: usable, raising=False)


@pytest.mark.parametrize(
    ("usable", "capabilities", "unit"),
    [
        (True, {"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}, "AMX"),
        (True, {"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, "AVX-512 BF16"),
        (True, {"avx2": True, "avx512_f": True, "avx512_bf16": False}, None),
        (True, {"neon": True, "bf16": True}, "BF16 of ARM"),
        (False, {"avx512_bf16": True, "amx_bf16": True}, None),  # forbidden to oneDNN
        (False, {"avx2": True}, None),
    ],
)
def test_bf16_of_a_cpu(monkeypatch, usable, capabilities, unit):
    _fake_cpu(monkeypatch, usable, **capabilities)
    assert bf16_unit(CPU).name == unit
    assert settle_alone(AUTO, CPU).precision == ("bf16" if unit else "fp32")


def test_this_cpu_is_read_as_linux_reads_it():
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    if "avx512_bf16" not in flags.split() and "amx_bf16" not in flags.split():
        assert bf16_unit(CPU).name is None or not flags
    elif torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert bf16_unit(CPU).name in ("AMX", "AVX-512 BF16")


@pytest.mark.parametrize(("major", "precision"), [(9, "bf16"), (8, "bf16"), (7, "fp32")])
def test_bf16_of_a_gpu_is_its_own_and_not_emulated(monkeypatch, major, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"major": major}))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert settle_alone(AUTO, torch.device("cuda", 0)).precision == precision


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stated_precision_is_taken_as_it_is_and_not_recorded(monkeypatch, tmp_path, precision):
    monkeypatch.setattr(training_precision, "bf16_unit", lambda device: Bf16Unit("a CPU", "AMX"))
    said: list[str] = []
    stated = PretrainConfig(precision=precision)
    assert settle_precision(str(tmp_path), stated, CPU, said.append) == stated
    assert not said and not list(tmp_path.iterdir())


def test_one_rank_without_bf16_keeps_all_at_fp32(monkeypatch, tmp_path):
    units = [Bf16Unit("a CPU", "AMX"), Bf16Unit("a CPU", None)]
    monkeypatch.setattr(training_precision, "gather_from_ranks", lambda value: units if value in units else [value])
    monkeypatch.setattr(training_precision, "bf16_unit", lambda device: units[0])
    said: list[str] = []
    assert settle_precision(str(tmp_path), AUTO, CPU, said.append).precision == "fp32"
    assert len(said) == 1 and "a CPU with AMX; a CPU without instructions for bf16" in said[0]


def test_what_all_ranks_multiply_by_is_chosen_and_kept_where_the_run_goes_on_without_it(monkeypatch, tmp_path):
    said: list[str] = []
    for unit in ("AMX", None):
        monkeypatch.setattr(training_precision, "bf16_unit", lambda device, unit=unit: Bf16Unit("a CPU", unit))
        assert settle_precision(str(tmp_path), AUTO, CPU, said.append).precision == "bf16"
    assert [line.partition(" (")[0].partition(" on ")[0] for line in said] == [
        "precision auto: bf16", "precision bf16, with which this run began", "warning: bf16"
    ]  # fmt: skip


@pytest.mark.parametrize("content", ['{"precision": "int4"}', "{}"])
def test_a_record_that_is_none_is_damage_in_one_line(tmp_path, content):
    (tmp_path / PRECISION_FILE).write_text(content)
    with pytest.raises(DamageError, match=r"not the record of a precision.*precision\.json") as refused:
        settle_precision(str(tmp_path), AUTO, CPU, print)
    assert "\n" not in str(refused.value)
