"""Checks Kubernetes manifests: strictly against the API's schemas, and against the server's settings.

Usage: manifests.py DIRECTORY HELP, where HELP is a file with the output of session-manager --help.
"""

import re
import sys
from pathlib import Path

import kubernetes_validate
import yaml

HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def require(condition, where, what: str) -> None:
    if not condition:
        sys.exit(f"{where}: {what}")


def check_schema(where: Path, document: dict) -> None:
    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.ValidationError) as error:
        path = ".".join(map(str, getattr(error, "path", [])))
        sys.exit(f"{where}: {document['kind']} {path}: {error.message}")


def check_container(where: Path, container: dict, pod: dict) -> None:
    security = pod.get("securityContext", {}) | container.get("securityContext", {})
    for name, value in HARDENED.items():
        require(security.get(name) == value, where, f"{name} is not {value}")
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        require(container.get(probe, {}).get("httpGet", {}).get("port") == "probe", where, f"no {probe}")
    for kind in ["requests", "limits"]:
        given = container.get("resources", {}).get(kind, {})
        require({"cpu", "memory"} <= given.keys(), where, f"no {kind} of cpu and memory")


def check_secrets(where: Path, pod: dict) -> None:
    """Checks that no secret may be missing, and that the server accepts the mounted ones."""
    for container in pod["containers"]:
        for source in container.get("envFrom", []):
            require(not source.get("secretRef", {}).get("optional"), where, "a Secret is optional")
    for volume in pod.get("volumes", []):
        secret = volume.get("secret", {"defaultMode": 0o440})
        require(not secret.get("optional"), where, "a mounted Secret is optional")
        require(secret.get("defaultMode") == 0o440, where, "a mounted Secret is open to others")
        require("secret" not in volume or "fsGroup" in pod["securityContext"], where, "no group may read it")


def check_peers(where: Path, policy: dict) -> None:
    """Checks that no pod of another namespace is admitted because of its own label."""
    for rule in policy["spec"].get("ingress", []):
        for peer in rule.get("from", [{}]):
            admitted = peer.get("namespaceSelector") or peer == {"podSelector": {}}
            require(admitted and not peer.get("podSelector"), where, f"{peer} lets in who labels itself")


def variables(document: dict) -> list:
    """The environment variables that a container gets from an object."""
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    own = [entry["name"] for container in pod.get("containers", []) for entry in container.get("env", [])]
    configuration = document["kind"] in ["ConfigMap", "Secret"]
    return [*document.get("data", {}), *document.get("stringData", {})] if configuration else own


def check_selection(where: Path, document: dict, workload: dict) -> None:
    """Checks that an object which selects the workload's pods finds them."""
    kind, spec, template = document["kind"], document.get("spec", {}), workload["spec"]["template"]
    if kind == "HorizontalPodAutoscaler":
        target = (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        require(target == (workload["kind"], workload["metadata"]["name"]), where, f"there is no {target}")
        require(spec.get("minReplicas", 1) >= 2, where, "fewer than 2 replicas")
    elif spec:
        selector = spec["podSelector" if kind == "NetworkPolicy" else "selector"]
        labels = (selector if kind == "Service" else selector.get("matchLabels", {})).items()
        require(labels and labels <= template["metadata"]["labels"].items(), where, f"{kind} selects no pod")
    if kind == "Service":
        ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]} - {"admin", "probe"}
        for port in spec["ports"]:
            require(port.get("targetPort") in ports, where, f"{port['name']} leads to none of {ports}")


def check_directory(directory: Path, settings: set) -> None:
    """Checks the files of one directory, which describe one workload."""
    names = sorted(directory.glob("*.yaml"))
    files = {file: list(yaml.safe_load_all(file.read_text())) for file in names}
    [kustomization] = files.pop(directory / "kustomization.yaml")
    there = {file.name for file in files if not file.name.endswith(".example.yaml")}
    require(set(kustomization["resources"]) == there, directory, "kustomization.yaml lists other files")
    objects = [(file, document) for file, documents in files.items() for document in documents]
    for file, document in objects:
        check_schema(file, document)
        for name in variables(document):
            require(name in settings, file, f"{name} is no setting of the server")
    workloads = [found for found in objects if "template" in found[1].get("spec", {})]
    require(len(workloads) == 1, directory, f"{len(workloads)} workloads in the place of 1")
    file, workload = workloads[0]
    pod = workload["spec"]["template"]["spec"]
    for container in pod["containers"]:
        check_container(file, container, pod)
    check_secrets(file, pod)
    for file, document in objects:
        check_selection(file, document, workload)
        if document["kind"] == "NetworkPolicy":
            check_peers(file, document)


def main() -> None:
    settings = set(re.findall(r"\[env:\s+(\w+)", Path(sys.argv[2]).read_text()))
    require(settings, sys.argv[2], "names no setting")
    directories = {file.parent for file in Path(sys.argv[1]).rglob("*.yaml")}
    require(directories, sys.argv[1], "has no manifest")
    for directory in sorted(directories):
        check_directory(directory, settings)
    print("done")


if __name__ == "__main__":
    main()
