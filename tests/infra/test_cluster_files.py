"""Cluster, image, engine and work-pool files: as valid as can be told without a cluster or a container runtime."""

from __future__ import annotations

import asyncio
import copy
import json
import shlex
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import ray
import yaml
from kuberay_schema import RAY_CLUSTER, RAY_JOB

from infra.stack.key_blocks import blocks
from syllabary.workers.cluster.devices import MAX_GPUS_VARIABLE
from syllabary.workers.control import jobs
from syllabary.workers.recipes.named import resolve

ROOT = Path(__file__).parent.parent.parent
INFRA = ROOT / "infra"
MANIFESTS = {"raycluster": RAY_CLUSTER, "rayjob": RAY_JOB}


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / "kubernetes" / f"{name}.yaml").read_text())
    return found


def cluster_of(found: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = found["spec"].get("rayClusterSpec", found["spec"])
    return spec


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_what_kuberay_takes(name: str) -> None:
    jsonschema.Draft202012Validator(MANIFESTS[name]).validate(manifest(name))


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_schema_refuses_a_misspelt_field(name: str) -> None:
    found = copy.deepcopy(manifest(name))
    cluster_of(found)["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.Draft202012Validator(MANIFESTS[name]).validate(found)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_cluster_scales_asks_for_its_token_and_runs_our_ray(name: str) -> None:
    spec = cluster_of(manifest(name))
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1" and groups["gpu"]["template"]["spec"]["tolerations"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    declared = {entry["name"]: entry["value"] for entry in head["env"]}
    assert declared == {MAX_GPUS_VARIABLE: str(groups["gpu"]["maxReplicas"] * int(limits["nvidia.com/gpu"]))}


def test_both_manifests_describe_the_same_cluster() -> None:
    assert cluster_of(manifest("raycluster")) == cluster_of(manifest("rayjob"))


def test_the_job_of_the_rayjob_is_one_of_ours() -> None:
    entrypoint = shlex.split(manifest("rayjob")["spec"]["entrypoint"])
    job = jobs.TokenizeJob.model_validate_json(entrypoint[-1])
    assert entrypoint[:-1] == job.command()[:-1] and job.archive.startswith("s3://")


def test_the_launcher_file_passes_rays_own_validation() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    found = yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(found)))
    assert found["max_workers"] == len(found["provider"]["worker_ips"])
    with pytest.raises(Exception, match="upscaling_sped"):
        validate_config(prepare_config(found | {"upscaling_sped": 1}))
    for command in (found["head_start_ray_commands"][-1], found["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token" in command and "0.0.0.0" not in command


@pytest.mark.parametrize("name", ["small", "paper", "large"])
@pytest.mark.parametrize("stage", ["pretrain", "codec"])
def test_an_engine_file_is_what_the_engine_makes_of_its_configuration(
    name: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from syllabary.workers.training.engine import deepspeed_config

    recipe = resolve("small" if name == "small" else "paper", config_uri=str(INFRA / "deepspeed" / f"{name}.yaml"))
    train = getattr(recipe, stage)
    stored = json.loads((INFRA / "deepspeed" / f"{name}.json").read_text())[stage]
    assert stored == json.loads(json.dumps(deepspeed_config(train)))
    batch = train.num_workers * train.micro_batch_size * train.grad_accum_steps
    wanted = {"small": (32, 8), "paper": (32, 8), "large": (1024, 128)}[name]
    assert batch == wanted[stage == "codec"] and train.zero_stage == {"small": 0, "paper": 1, "large": 2}[name]
    _require_deepspeed_parses(stored, monkeypatch)


def _require_deepspeed_parses(stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    parsed = DeepSpeedConfig(copy.deepcopy(stored))
    assert parsed.train_micro_batch_size_per_gpu == stored["train_micro_batch_size_per_gpu"]
    assert parsed.gradient_accumulation_steps == stored["gradient_accumulation_steps"]
    assert parsed.zero_config.stage == stored["zero_optimization"]["stage"]
    assert parsed.gradient_clipping == stored["gradient_clipping"]


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect looks up blocks and variables that a template refers to; here they stay references."""

    async def as_it_is(template: Any, **_: Any) -> Any:
        return template

    for name in ("resolve_block_document_references", "resolve_variables"):
        monkeypatch.setattr(f"prefect.workers.base.{name}", as_it_is)


def template(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INFRA / "work_pools" / f"{name}.json").read_text())
    return found


def default_template(name: str) -> dict[str, Any]:
    """Prefect's own, as it ships them."""
    import prefect

    view = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    workers = json.loads(view.read_text())
    package = "prefect" if name == "process" else f"prefect-{name}"
    found: dict[str, Any] = workers[package][name]["default_base_job_configuration"]
    return found


@pytest.mark.parametrize("name", ["process", "process-with-blocks", "kubernetes"])
def test_a_work_pool_template_passes_prefects_validation(name: str, no_server: None) -> None:
    from prefect.server.schemas.actions import WorkPoolCreate
    from prefect.workers.base import BaseJobConfiguration

    found = template(name)
    jsonschema.Draft202012Validator.check_schema(found["variables"])
    kind = name.partition("-")[0]
    WorkPoolCreate(name="syllabary", type=kind, base_job_template=found)
    made = asyncio.run(BaseJobConfiguration.from_template_and_values(found, {}, client=cast(Any, object())))
    assert made.env["SYLLABARY_LOG"] == "json"
    assert set(found["job_configuration"]) == set(default_template(kind)["job_configuration"])


def test_the_template_with_blocks_is_the_other_one_and_references_to_keys() -> None:
    """Keys that a pool without blocks takes from its worker; nothing else differs, and no key stands there itself."""
    plain, keyed = template("process"), template("process-with-blocks")
    fields = keyed["variables"]["properties"]["env"]
    references = {name: value for name, value in fields["default"].items() if "{{" in value}
    assert set(references) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"} == set(blocks())
    assert all(value == f"{{{{ prefect.blocks.secret.{blocks()[name]} }}}}" for name, value in references.items())
    fields["default"] = {name: value for name, value in fields["default"].items() if name not in references}
    for found in (plain, keyed):
        del found["variables"]["description"], found["variables"]["properties"]["env"]["description"]
    assert keyed == plain


def test_the_process_template_makes_a_process(no_server: None) -> None:
    from prefect.workers.process import ProcessJobConfiguration

    made = asyncio.run(
        ProcessJobConfiguration.from_template_and_values(
            template("process"), {"working_dir": "/opt"}, client=cast(Any, object())
        )
    )
    assert str(made.working_dir) == "/opt" and made.stream_output is False


def test_the_kubernetes_template_asks_for_secrets_by_name_and_has_prefects_manifest() -> None:
    ours, theirs = (
        t["job_configuration"]["job_manifest"] for t in (template("kubernetes"), default_template("kubernetes"))
    )
    pod, default = ours["spec"]["template"]["spec"], theirs["spec"]["template"]["spec"]
    assert set(default) <= set(pod) and set(default["containers"][0]) <= set(pod["containers"][0])
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "{{ key_secret }}"}}]
    head = cluster_of(manifest("raycluster"))["headGroupSpec"]["template"]["spec"]["containers"][0]
    variables = template("kubernetes")["variables"]["properties"]
    assert head["envFrom"] == [{"secretRef": {"name": variables["key_secret"]["default"]}}]
    assert variables["ray_token_secret"]["default"] == manifest("raycluster")["metadata"]["name"]


@pytest.mark.parametrize("name", ["process", "kubernetes"])
def test_a_template_with_an_unknown_variable_is_refused(name: str) -> None:
    from prefect.server.schemas.actions import WorkPoolCreate

    found = template(name)
    del found["variables"]["properties"]["labels"]
    with pytest.raises(ValueError, match="labels"):
        WorkPoolCreate(name="x", type=name, base_job_template=found)
