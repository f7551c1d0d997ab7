"""Kubernetes manifests in deploy/: valid, hardened, with existing options."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from dasknmf.cli.commands import main
from tests.deploy.image import DEPLOY, image_user, project

FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCUMENTS = {
    f"{path.name}:{document['kind']}": document
    for path in FILES
    for document in yaml.safe_load_all(path.read_text())
    if document is not None
}
OWN = [name for name in DOCUMENTS if name.endswith("DaskCluster")]
"""What Kubernetes itself knows nothing of."""
JOBS = [name for name in DOCUMENTS if name.endswith(":Job")]
CRD = "crds/daskcluster.yaml"
KUBERNETES = ["1.31", "1.37"]
"""The oldest with all that the manifests ask for, and the newest with a schema."""

needs_schemas = pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="kubernetes-validate needs Python 3.12",
)


def pods() -> dict[str, dict[str, Any]]:
    """The specs of all pods that the manifests make."""
    found = {name: DOCUMENTS[name]["spec"]["template"]["spec"] for name in JOBS}
    for name in OWN:
        for role in ("scheduler", "worker"):
            found[f"{name}:{role}"] = DOCUMENTS[name]["spec"][role]["spec"]
    return found


PODS = pods()
CONTAINERS = {
    f"{name}:{container['name']}": container
    for name, pod in PODS.items()
    for container in [*pod.get("initContainers", []), *pod["containers"]]
}


@cache
def operator() -> jsonschema.Draft202012Validator:
    """The operator's own schema of a DaskCluster, with fields that it does not name refused."""
    files = importlib.metadata.files("dask-kubernetes") or []
    (path,) = [file for file in files if str(file).endswith(CRD)]
    (version,) = yaml.safe_load(Path(str(path.locate())).read_text())["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}  # of every resource
    return jsonschema.Draft202012Validator(closed(schema))


def closed(schema: Any) -> Any:
    """Kubernetes drops unknown fields of such objects without a word: here they are errors."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(each) for key, each in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and not free:
        made["additionalProperties"] = False
    return made


def strictly(document: dict[str, Any], version: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(document, version, strict=True)


def test_there_are_manifests():
    assert len(FILES) == 4
    assert len(JOBS) == 3
    assert len(OWN) == 1
    assert len(PODS) == 5


@needs_schemas
@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", sorted(DOCUMENTS.keys() - OWN))
def test_kubernetes_takes_it(name, version):
    strictly(DOCUMENTS[name], version)


@needs_schemas
@pytest.mark.parametrize("name", sorted(PODS))
def test_kubernetes_takes_the_pods_of_clusters(name):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": PODS[name]}
    strictly(pod, KUBERNETES[-1])


@needs_schemas
def test_kubernetes_refuses_a_misspelt_field():
    import kubernetes_validate

    wrong = copy.deepcopy(DOCUMENTS[JOBS[0]])
    wrong["spec"]["backofLimit"] = wrong["spec"].pop("backoffLimit")
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        strictly(wrong, KUBERNETES[-1])


@pytest.mark.parametrize("name", OWN)
def test_the_operator_takes_its_cluster(name):
    operator().validate(DOCUMENTS[name])


@pytest.mark.parametrize(
    ("path", "right", "wrong"),
    [
        (("spec", "worker"), "replicas", "replcas"),
        (("spec", "worker", "spec"), "securityContext", "securityContexts"),
        (("spec", "scheduler", "spec", "containers", 0), "readinessProbe", "readynessProbe"),
        (("spec", "scheduler", "service"), "ports", "port"),
    ],
)
def test_the_operators_schema_refuses_a_misspelt_field(path, right, wrong):
    document = copy.deepcopy(DOCUMENTS[OWN[0]])
    inner: Any = document
    for step in path:
        inner = inner[step]
    inner[wrong] = inner.pop(right)
    with pytest.raises(jsonschema.ValidationError, match=wrong):
        operator().validate(document)


@pytest.mark.parametrize("name", sorted(PODS))
def test_pods_are_nobody_and_have_no_token(name):
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] >= 30
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == int(image_user())
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert all(each.get("emptyDir", {"sizeLimit": ""}).keys() == {"sizeLimit"} for each in pod["volumes"])
    mounted = {
        mount["name"]
        for each in [*pod.get("initContainers", []), *pod["containers"]]
        for mount in each["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_containers_are_boxed_in(name):
    container = CONTAINERS[name]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}
    for variable in container.get("env", []):
        assert "value" not in variable or not re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"])
    assert container["command"][0] in ("dasknmf", "dask", "cp"), "no shell between"
    assert "args" not in container


@pytest.mark.parametrize("name", [each for each in CONTAINERS if not each.endswith(":kernels")])
def test_what_works_is_probed_and_can_write_to_tmp(name):
    container = CONTAINERS[name]
    assert "livenessProbe" in container
    assert {"startupProbe", "readinessProbe"} & container.keys()
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
    for probe in ("livenessProbe", "readinessProbe"):
        if asked := container.get(probe, {}).get("httpGet"):
            assert asked["port"] in [port["name"] for port in container["ports"]]


def test_there_is_no_credential_and_one_image():
    text = "".join(path.read_text() for path in FILES)
    assert "kind: Secret" not in text
    assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY", text)
    images = {container["image"] for container in CONTAINERS.values()}
    assert images == {f"registry.example.com/dasknmf:{project()['version']}"}
    (image,) = images
    for name in ("Dockerfile", "README.md"):
        told = re.findall(r"registry\.example\.com\S+", (DEPLOY / name).read_text())
        assert set(told) == {image}


@pytest.mark.parametrize("name", JOBS)
def test_jobs_go_on_after_what_passes_and_end_at_what_does_not(name):
    spec = DOCUMENTS[name]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert spec["podReplacementPolicy"] == "Failed"
    assert (spec["completions"], spec["parallelism"]) == (1, 1)
    assert spec["backoffLimit"] > 0
    # What is ignored goes on until then, such as evictions for a full /tmp.
    assert 0 < spec["activeDeadlineSeconds"] <= 24 * 3600
    (container,) = spec["template"]["spec"]["containers"]
    actions: dict[Any, str] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        for condition in rule.get("onPodConditions", []):
            assert condition["status"] == "True"
            actions.setdefault(condition["type"], rule["action"])
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            assert rule["onExitCodes"]["operator"] == "In"
            for code in rule["onExitCodes"]["values"]:
                actions.setdefault(code, rule["action"])
    assert actions == {75: "Ignore", "DisruptionTarget": "Ignore"} | dict.fromkeys([2, 3, 4, 5], "FailJob")


@pytest.mark.parametrize("name", JOBS)
def test_commands_of_jobs_are_understood(name, tmp_path):
    pod = PODS[name]
    (container,) = pod["containers"]
    program, command, *arguments = container["command"]
    assert program == "dasknmf"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (config,) = [each for each in container["volumeMounts"] if "configMap" in volumes[each["name"]]]
    told = DOCUMENTS[name.replace(":Job", ":ConfigMap")]
    assert volumes[config["name"]]["configMap"]["name"] == told["metadata"]["name"]
    for file, content in told["data"].items():
        (tmp_path / file).write_text(content)
    arguments = [each.replace(config["mountPath"], str(tmp_path)) for each in arguments]
    parsed = parse(main.commands[command], arguments).params
    assert parsed["n_components"] == 20  # of the file
    assert parsed["log_format"] == "json"
    probe = container["livenessProbe"]["exec"]["command"][-1]
    assert f'"{parsed["heartbeat"]}"' in probe
    assert container["startupProbe"]["exec"]["command"][-1] == probe
    # The file is there from the start on, also while workers are waited for.
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 300
    if "://" in parsed["scheduler"]:
        cluster = DOCUMENTS[OWN[0]]
        assert parsed["scheduler"] == f"tcp://{cluster['metadata']['name']}-scheduler:8786"
        assert parsed["workers"] == cluster["spec"]["worker"]["replicas"]


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_commands_of_clusters_are_understood(role):
    container = CONTAINERS[f"{OWN[0]}:{role}:{role}"]
    program, command, *arguments = container["command"]
    assert (program, command) == ("dask", role)
    parsed = parse({"scheduler": dask_scheduler, "worker": dask_worker}[role].main, arguments).params
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert parsed["dashboard_address"] == f":{ports['http-dashboard']}"
    if role == "scheduler":
        assert parsed["port"] == str(ports["tcp-comm"]) or parsed["port"] == ports["tcp-comm"]
        served = {
            port["targetPort"]: port["port"] for port in DOCUMENTS[OWN[0]]["spec"][role]["service"]["ports"]
        }
        assert served == ports
    else:
        assert parsed["local_directory"].startswith("/tmp/")


def test_what_the_readme_adds_for_tls_is_understood(tmp_path):
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    block = (DEPLOY / "README.md").read_text().replace("=/tls/", f"={tmp_path}/")
    added = re.findall(r"^ +- (--\S+=\S+)", block, re.M)
    ours = added.index("--scheduler=tls://nmf-scheduler:8786")
    for dasks in (dask_scheduler, dask_worker):
        assert parse(dasks.main, added[:ours]).params["protocol"] == "tls"
    parsed = parse(main.commands["fit"], ["v.zarr", "run.zarr", "-k", "2", *added[ours:]]).params
    assert parsed["tls_key"] == tmp_path / "key.pem"
    assert parsed["scheduler"].startswith("tls://")


def test_the_readme_names_files_that_are_there():
    text = (DEPLOY / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (DEPLOY / link).is_file()
    for path in FILES:
        assert f"(kubernetes/{path.name})" in text


def test_a_wrong_option_would_be_told():
    with pytest.raises(click.UsageError, match="No such option"):
        parse(main.commands["fit"], ["v", "run", "-k", "2", "--hartbeat=x"])


def test_only_its_own_pods_reach_a_cluster():
    cluster = DOCUMENTS[OWN[0]]["metadata"]["name"]
    (name,) = [each for each in DOCUMENTS if each.endswith("NetworkPolicy")]
    policy = DOCUMENTS[name]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"dask.org/cluster-name": cluster}}
    assert policy["policyTypes"] == ["Ingress"]
    allowed = []
    for rule in policy["ingress"]:
        if any("namespaceSelector" in peer for peer in rule["from"]):
            assert [port["port"] for port in rule["ports"]] == [8787], "no port that takes pickles"
        else:
            allowed += rule["from"]
    assert all(peer.keys() == {"podSelector"} for peer in allowed)
    assert {"dask.org/cluster-name": cluster} in [peer["podSelector"]["matchLabels"] for peer in allowed]
    (client,) = [each for each in JOBS if "cluster" in each]
    labels = DOCUMENTS[client]["spec"]["template"]["metadata"]["labels"]
    assert labels in [peer["podSelector"]["matchLabels"] for peer in allowed]


def test_kernels_are_where_the_image_has_them():
    (place,) = set(re.findall(r"NUMBA_CACHE_DIR=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    users = 0
    for pod in PODS.values():
        for copied in pod.get("initContainers", []):
            (target,) = [mount["mountPath"] for mount in copied["volumeMounts"]]
            assert copied["command"] == ["cp", "-R", f"{place}/.", f"{target}/"]
            (volume,) = [mount["name"] for mount in copied["volumeMounts"]]
            for container in pod["containers"]:
                assert {"name": volume, "mountPath": place} in container["volumeMounts"]
                users += 1
    assert users == 4  # all but the scheduler, which computes nothing


def parse(command: click.Command, arguments: list[str]) -> click.Context:
    return command.make_context(command.name, list(arguments))
