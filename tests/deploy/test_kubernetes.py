"""The Kubernetes manifests: valid by the schemas of Kubernetes, and consistent with each other."""

from __future__ import annotations

import importlib
import ipaddress
import re
from functools import cache
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from limiter.command import cli
from tests.deploy.support import (
    KUBERNETES,
    ROOT,
    container,
    graceful_timeout,
    last,
    manifest,
    option,
    program,
    run,
)

KINDS = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}


@cache
def built() -> list[dict[str, Any]]:
    """What ``kubectl apply --kustomize`` sends to Kubernetes."""
    return list(yaml.safe_load_all(run(program("kustomize", "kustomize"), "build", KUBERNETES)))


def of_kind(kind: str) -> dict[str, Any]:
    """The only one of this kind."""
    (found,) = [each for each in built() if each["kind"] == kind]
    return found


def pods() -> dict[str, Any]:
    """What the Deployment says of its pods."""
    found: dict[str, Any] = manifest("Deployment")["spec"]["template"]["spec"]
    return found


@pytest.fixture
def schemas() -> Any:
    """The schemas of Kubernetes; their import takes a second, and not all workers need it."""
    return importlib.import_module("kubernetes_validate")


def test_every_manifest_is_valid(schemas: Any) -> None:
    """Strict: a field that the schema does not know is an error, as for a typing mistake."""
    assert {each["kind"] for each in built()} == KINDS
    # The oldest release whose schemas know all fields of the manifests, and the newest of the package.
    for version in ("1.30", schemas.latest_version()):
        for each in built():
            schemas.validate(each, version, strict=True)


def test_a_wrong_field_is_found(schemas: Any) -> None:
    """The check above can fail."""
    wrong = of_kind("Deployment") | {"spec": of_kind("Deployment")["spec"] | {"replica": 3}}

    with pytest.raises(schemas.ValidationError):
        schemas.validate(wrong, schemas.latest_version(), strict=True)


def test_selectors_choose_the_pods() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    spec = {each["kind"]: each["spec"] for each in built() if "spec" in each}
    spread = spec["Deployment"]["template"]["spec"]["topologySpreadConstraints"]

    assert spec["Service"]["selector"].items() <= labels
    for selector in [
        spec["Deployment"]["selector"],
        spec["PodDisruptionBudget"]["selector"],
        spec["NetworkPolicy"]["podSelector"],
        *(each["labelSelector"] for each in spread),
    ]:
        assert selector["matchLabels"].items() <= labels
        assert selector["matchLabels"]


def test_names_lead_to_what_exists() -> None:
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}
    arguments = container()["args"]
    policy = of_kind("NetworkPolicy")["spec"]

    assert option(arguments, "--bind").endswith(f":{ports['http']}")
    assert option(arguments, "--operators").endswith(f":{ports['operators']}")
    assert {each["targetPort"] for each in of_kind("Service")["spec"]["ports"]} == {"http"}
    assert [each["ports"][0]["port"] for each in policy["ingress"]] == ["http", "operators"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container()[probe]["httpGet"]["port"] == "http"
    volumes = {each["name"]: each for each in pods()["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in container()["volumeMounts"]}
    assert set(volumes) == set(mounts)
    config = of_kind("ConfigMap")
    assert volumes["policies"]["configMap"]["name"] == config["metadata"]["name"]
    variables = {each["name"]: each["value"] for each in container()["env"]}
    assert variables["LIMITER_POLICIES"] in {
        f"{mounts['policies']}/{name}" for name in config["data"]
    }


def test_a_roll_stops_no_pod_early() -> None:
    """The pod may drain, and finish its requests, before the kubelet kills it."""
    drain = float(option(container()["args"], "--drain"))
    readiness = container()["readinessProbe"]
    rolling = manifest("Deployment")["spec"]["strategy"]["rollingUpdate"]

    assert pods()["terminationGracePeriodSeconds"] >= drain + graceful_timeout() + 5
    assert drain > readiness["periodSeconds"] + readiness["timeoutSeconds"]
    assert rolling == {"maxUnavailable": 0, "maxSurge": 1}
    assert manifest("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_local_share_counts_every_worker() -> None:
    variables = {each["name"]: each["value"] for each in container()["env"]}
    workers = int(option(container()["args"], "--workers"))

    replicas = manifest("Deployment")["spec"]["replicas"]
    assert replicas >= 2
    assert int(variables["LIMITER_LOCAL_SHARE"]) == replicas * workers
    assert ipaddress.ip_network(variables["LIMITER_TRUSTED_PROXIES"]).is_private


def test_a_pod_has_no_rights() -> None:
    security = container()["securityContext"]

    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert pods()["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pods()["securityContext"]["runAsNonRoot"]
    user = (pods()["securityContext"][f"runAs{name}"] for name in ("User", "Group"))
    assert ":".join(map(str, user)) == last("USER")
    assert not pods()["automountServiceAccountToken"]
    assert not pods()["enableServiceLinks"]


def test_the_page_shows_the_same_probes() -> None:
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs/service.md").read_text(), re.M | re.S
    )
    for name, probe in yaml.safe_load(block).items():
        probe["httpGet"]["port"] = "http"
        assert probe == container()[name]


def test_the_policies_are_right() -> None:
    done = CliRunner().invoke(cli, ["check", str(KUBERNETES / "policies.toml")])

    assert done.exit_code == 0, done.output
    assert (
        of_kind("ConfigMap")["data"]["policies.toml"] == (KUBERNETES / "policies.toml").read_text()
    )


def test_the_page_names_every_variable_of_the_secret() -> None:
    """The Deployment takes all keys of the Secret that deploy/README.md creates."""
    secret = container()["envFrom"][0]["secretRef"]["name"]
    page = (ROOT / "deploy/README.md").read_text()
    (shown,) = re.findall(rf"kubectl create secret generic {secret} (.*?)\nkubectl", page, re.S)

    names = re.findall(r"--from-literal=(\w+)=", shown)
    comment = (KUBERNETES / "deployment.yml").read_text()
    assert len(names) == 4
    assert all(name in comment for name in names)
