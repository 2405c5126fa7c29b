"""What our manifests use of KubeRay's v1 resources: field names, types and requirements of its published CRDs.

Trimmed to those fields, and closed: a field that is not here is a mistake in a manifest, or has to be added here after
a look into KubeRay's CRD.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def closed(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGTP]i?)?$"}
PARAMETERS: Schema = {"type": "object", "additionalProperties": STRING}
AMOUNTS: Schema = {"type": "object", "additionalProperties": QUANTITY}
METADATA = closed({"name": NAME, "namespace": NAME}, ("name",))

CONTAINER = closed(
    {
        "name": NAME,
        "image": STRING,
        "ports": {"type": "array", "items": closed({"name": NAME, "containerPort": COUNT}, ("containerPort",))},
        "envFrom": {"type": "array", "items": closed({"secretRef": closed({"name": NAME}, ("name",))})},
        "env": {"type": "array", "items": closed({"name": STRING, "value": STRING}, ("name",))},
        "resources": closed({"requests": AMOUNTS, "limits": AMOUNTS}),
        "volumeMounts": {"type": "array", "items": closed({"name": NAME, "mountPath": STRING}, ("name", "mountPath"))},
    },
    ("name", "image", "resources"),
)
POD = closed(
    {
        "spec": closed(
            {
                "containers": {"type": "array", "items": CONTAINER, "minItems": 1},
                "volumes": {
                    "type": "array",
                    "items": closed(
                        {"name": NAME, "emptyDir": closed({"medium": STRING, "sizeLimit": QUANTITY})}, ("name",)
                    ),
                },
                "tolerations": {
                    "type": "array",
                    "items": closed({"key": STRING, "operator": {"enum": ["Exists", "Equal"]}, "effect": STRING}),
                },
            },
            ("containers",),
        )
    },
    ("spec",),
)
CLUSTER_SPEC = closed(
    {
        "rayVersion": STRING,
        "authOptions": closed({"mode": {"enum": ["disabled", "token"]}}),
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": closed(
            {
                "version": {"enum": ["v1", "v2"]},
                "idleTimeoutSeconds": COUNT,
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
            }
        ),
        "headGroupSpec": closed({"rayStartParams": PARAMETERS, "template": POD}, ("template",)),
        "workerGroupSpecs": {
            "type": "array",
            "items": closed(
                {
                    "groupName": NAME,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "rayStartParams": PARAMETERS,
                    "template": POD,
                },
                ("groupName", "maxReplicas", "minReplicas", "template"),
            ),
        },
    },
    ("headGroupSpec",),
)


def resource(kind: str, spec: Schema) -> Schema:
    return closed(
        {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": METADATA, "spec": spec},
        ("apiVersion", "kind", "metadata", "spec"),
    )


RAY_CLUSTER = resource("RayCluster", CLUSTER_SPEC)
RAY_JOB = resource(
    "RayJob",
    closed(
        {
            "entrypoint": STRING,
            "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
            "backoffLimit": COUNT,
            "shutdownAfterJobFinishes": {"type": "boolean"},
            "ttlSecondsAfterFinished": COUNT,
            "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
            "rayClusterSpec": CLUSTER_SPEC,
        },
        ("entrypoint", "rayClusterSpec"),
    ),
)
