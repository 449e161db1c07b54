"""What the tools that read the files of cluster/ say themselves about what may stand in them."""

import json
import lzma
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
SCHEMAS = Path(__file__).parent / "schemas"


def document(name: str) -> Any:
    """Return the only YAML document of a file of cluster/."""
    (found,) = yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8"))
    return found


def errors(found: Any, schema: Any) -> list[str]:
    """Return where a document is not what its schema allows, and how."""
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in Draft202012Validator(schema).iter_errors(found)
    ]


@cache
def kuberay(plural: str) -> Any:
    """Return the schema of a custom resource, in which a key that it does not name is an error."""
    definition = _read(f"kuberay-1.7.0-{plural}.json")
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    schema = _strict(versions["v1"]["schema"]["openAPIV3Schema"])
    # Kubernetes knows what stands there, the definition leaves it open.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def kubernetes(kind: str) -> Any:
    """Return the strict schema of a kind of Kubernetes itself."""
    definitions = _read("kubernetes-1.37.json")["$defs"]
    return {"$ref": f"#/$defs/{kind}", "$defs": definitions}


def skypilot() -> Any:
    """Return the schema of a task, with that of its resources in its place."""
    schemas = _read("skypilot-0.14.1.json")
    schemas["task"]["properties"]["resources"] = schemas["resources"]
    return schemas["task"]


def ray() -> Any:
    """Return Ray's schema of a cluster file."""
    return json.loads(files("ray").joinpath("autoscaler/ray-schema.json").read_text("utf-8"))


def _read(name: str) -> Any:
    return json.loads(lzma.decompress((SCHEMAS / f"{name}.xz").read_bytes()))


def _strict(schema: Any) -> Any:
    """Return an OpenAPI schema as a JSON schema that allows no keys but those it names.

    Rules in Kubernetes' expression language are left out.
    """
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: part for key, part in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema:
        strict["properties"] = {k: _strict(part) for k, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(strict.get(key), dict):
            strict[key] = _strict(strict[key])
    if strict.pop("nullable", False) and "type" in strict:
        strict["type"] = [strict["type"], "null"]
    return strict
