"""Runs `repmd check-config` as each manifest's container of repmd would run `repmd serve`.

check.py REPMD MANIFEST...
"""

import os
import subprocess
import sys
import tempfile

import yaml

# What the cluster would put there.
FIELDS = {"status.podIP": "10.1.2.3", "status.hostIP": "10.0.0.3", "spec.nodeName": "machine-3"}


def secrets(documents):
    return {
        document["metadata"]["name"]: document["stringData"]
        for document in documents
        if document["kind"] == "Secret"
    }


def value(variable, of_secrets):
    if "value" in variable:
        return variable["value"]
    origin = variable["valueFrom"]
    if "fieldRef" in origin:
        return FIELDS[origin["fieldRef"]["fieldPath"]]
    reference = origin["secretKeyRef"]
    return of_secrets[reference["name"]][reference["key"]]


def mount(container, pod, of_secrets, folder):
    """Writes the files of mounted secrets below `folder`, and gives each place in the container its place there."""
    volumes = {volume["name"]: volume["secret"] for volume in pod.get("volumes", []) if "secret" in volume}
    places = {}
    for mounted in container.get("volumeMounts", []):
        if mounted["name"] not in volumes:
            continue
        secret = volumes[mounted["name"]]
        for item in secret["items"]:
            places[f"{mounted['mountPath']}/{item['path']}"] = os.path.join(folder, item["path"])
            with open(os.path.join(folder, item["path"]), "w", encoding="utf-8") as file:
                file.write(of_secrets[secret["secretName"]][item["key"]])
    return places


def check_ports(path, documents, containers):
    """What services lead to and policies let in is a port of a container; a port that repmd opens is named there."""
    ports = [(port, port.get("protocol", "TCP")) for c, _ in containers for port in c.get("ports", [])]
    numbers = {(port["containerPort"], protocol) for port, protocol in ports}
    names = {(port["name"], protocol) for port, protocol in ports}
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "Service":
            for port in spec["ports"]:
                place = (port.get("targetPort", port["port"]), port.get("protocol", "TCP"))
                assert place in names | numbers, f"{path}: the service leads to {place}, which no container has"
        if document["kind"] == "NetworkPolicy":
            for port in [port for rule in spec["ingress"] for port in rule["ports"]]:
                place = (port["port"], port.get("protocol", "TCP"))
                assert place in numbers, f"{path}: the policy lets {place} in, which no container has"
    for container, _ in containers:
        for variable in container.get("env", []):
            if variable["name"] in ("REPMD_DNS", "REPMD_ADMIN") and not variable["value"].startswith("127.0.0.1:"):
                port = int(variable["value"].rpartition(":")[2])
                of_one = {"REPMD_DNS": ["TCP", "UDP"], "REPMD_ADMIN": ["TCP"]}[variable["name"]]
                for protocol in of_one:
                    assert (port, protocol) in numbers, f"{path}: {variable['name']} has no port {port}, {protocol}"


def check(program, path):
    with open(path, encoding="utf-8") as manifest:
        documents = list(yaml.safe_load_all(manifest))
    of_secrets = secrets(documents)
    pods = [d["spec"]["template"]["spec"] for d in documents if "template" in d.get("spec", {})]
    containers = [(c, pod) for pod in pods for c in pod.get("initContainers", []) + pod["containers"]]
    check_ports(path, documents, containers)
    daemons = [(c, pod) for c, pod in containers if c["image"].startswith("repmd:")]
    assert daemons, f"{path} runs no repmd"
    for daemon, pod in daemons:
        serve, *flags = daemon["args"]
        assert serve == "serve", f"{path}: {daemon['args']}"
        environment = {variable["name"]: value(variable, of_secrets) for variable in daemon["env"]}
        with tempfile.TemporaryDirectory() as folder:
            places = mount(daemon, pod, of_secrets, folder)
            environment = {name: places.get(text, text) for name, text in environment.items()}
            shown = subprocess.run(
                [program, "check-config", *flags], env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        for name in environment:
            assert f"({name})\n" in shown, f"{path}: {name} sets nothing"
        asked = daemon["startupProbe"]["exec"]["command"]
        subprocess.run([program, *asked[1:], "--help"], env={}, check=True, stdout=subprocess.DEVNULL)


program, *manifests = sys.argv[1:]
for manifest in manifests:
    check(program, manifest)
print(f"{len(manifests)} manifests are as they should be.")
