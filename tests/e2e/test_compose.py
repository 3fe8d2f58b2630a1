"""docker-compose.yml without containers: its own commands, with its hosts mapped to loopback.

Docker Compose reads the file; each service's command, environment and health check is then run as
it stands there, in the order of `depends_on`. Only names and addresses are replaced.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from service.demo.children import Child, stop_at_once
from service.demo.servers import HOST, free_port
from tests.e2e.support import ab, until
from tests.service.support import ROOT, clean_environment

#: The networks in which services have addresses of their own: that of the applications, and Redis's.
SUBNETS = re.compile(r"\b172\.28\.9[01]\.(?=\d)")
BALANCER = "172.28.90.10"
INSTANCES = ("app-1", "app-2", "decision-1", "decision-2")
#: The port on which the load balancer sends requests to itself.
INSIDE = "127.0.0.1:9001"
#: Volumes for Redis's users and their passwords, mounted at their own names.
VOLUMES = ("store", "password")


def read_compose(**variables: str) -> dict[str, Any]:
    """Let Docker Compose read, check and complete the file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        version = subprocess.run([*command, "version"], capture_output=True, check=False)
        if version.returncode == 0:
            break
    else:
        pytest.skip("docker compose is not installed (Debian: docker-compose)")
    done = subprocess.run(
        [*command, "--file", "docker-compose.yml", "config", "--format", "json"],
        cwd=ROOT,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def dockerfile(path: str, instruction: str) -> list[str]:
    """Return the arguments of each such instruction of an image."""
    text = (ROOT / path).read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction}\s+(.*)$", text, re.MULTILINE)


IMAGES = ("service/Dockerfile", "deploy/Dockerfile")


class System:
    """The services of the file, as processes on loopback addresses that no other test uses."""

    def __init__(self, folder: Path) -> None:
        self.services: dict[str, Any] = read_compose(LIMITER_LIMITS="100/minute")["services"]
        self.folder = folder
        self.children: dict[str, Child] = {}
        self.inside = f"{HOST}:{free_port()}"
        self.net = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}."
        # The addresses in the file; other addresses for the services that get one from Docker.
        self.addresses = {
            name: self._fixed(service) or f"{self.net}{100 + number}"
            for number, (name, service) in enumerate(self.services.items())
        }
        for volume in VOLUMES:
            (folder / volume).mkdir()

    def _fixed(self, service: dict[str, Any]) -> str | None:
        """Return the address that the file gives a service, in the test's net."""
        for network in service.get("networks", {}).values():
            if network and "ipv4_address" in network:
                return SUBNETS.sub(self.net, network["ipv4_address"])
        return None

    def local(self, name: str, text: str) -> str:
        """Replace the names of containers; `config` writes a $ as $$."""
        text = text.replace("$$", "$")
        text = text.replace(INSIDE, self.inside)
        # Traefik calls the instances from this address; in the subnet it has its own.
        text = text.replace(f"{BALANCER}/32,127.0.0.1/32", "127.0.0.1/32")
        text = SUBNETS.sub(self.net, text)
        for volume in VOLUMES:
            text = text.replace(f"/{volume}/", f"{self.folder / volume}/")
        text = text.replace("0.0.0.0", self.addresses[name])  # noqa: S104
        for host, address in self.addresses.items():
            text = re.sub(rf"\b{re.escape(host)}(?=:\d)", address, text)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """Return the service's variables in the file, with this environment's PATH."""
        given = self.services[name].get("environment") or {}
        found = {key: self.local(name, value) for key, value in given.items() if value is not None}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return clean_environment(PATH=path, HOSTNAME=self.addresses[name], **found)

    def command(self, name: str) -> list[str]:
        """Return the service's command."""
        service = self.services[name]
        entrypoint = service.get("entrypoint")
        if entrypoint is None and (image := self.image(name)):
            entrypoint = json.loads("".join(dockerfile(image, "ENTRYPOINT")) or "[]")
        words = (entrypoint or []) + (service.get("command") or [])
        command = [self.local(name, word) for word in words]
        if command[0] == "redis-server":
            # A container listens on one address, and calls from the same one.
            address = self.addresses[name]
            command += ["--bind", address, "--bind-source-addr", address]
        program = shutil.which(command[0], path=self.environment(name)["PATH"])
        if program is None:
            pytest.skip(f"{command[0]} is not installed")
        return [program, *command[1:]]

    def image(self, name: str) -> str | None:
        """Return the path of the file by which the service's image is built; None if it is not built."""
        path = self.services[name].get("build", {}).get("dockerfile")
        return None if path is None else str(path)

    def health(self, name: str) -> str:
        """Return the command of the service's health check."""
        if "healthcheck" not in self.services[name]:
            image = self.image(name)
            assert image is not None
            text = re.sub(r"^(--\S+\s+)*CMD ", "", dockerfile(image, "HEALTHCHECK")[0])
            if text.startswith("["):  # without a shell
                text = shlex.join(json.loads(text))
        else:
            kind, text = self.services[name]["healthcheck"]["test"]
            assert kind == "CMD-SHELL"
        return self.local(name, text).replace("127.0.0.1", self.addresses[name])

    def is_healthy(self, name: str) -> bool:
        """Run the health check, as Docker does."""
        command = ["sh", "-c", self.health(name)]
        done = subprocess.run(
            command, env=self.environment(name), capture_output=True, timeout=20, check=False
        )
        return done.returncode == 0

    def start(self, name: str) -> None:
        """Start what the service depends on, wait for it, and start the service."""
        if name in self.children:
            return
        for other, how in self.services[name].get("depends_on", {}).items():
            self.start(other)
            child = self.children[other]
            if how["condition"] == "service_completed_successfully":
                assert child.process.wait(60) == 0, self.log(other)
                continue
            assert how["condition"] == "service_healthy"
            until(lambda o=other: self.is_healthy(o), what=lambda o=other: self.log(o))  # type: ignore[misc]
            assert child.alive, self.log(other)
        with (self.folder / f"{name}.log").open("ab") as output:
            self.children[name] = Child(
                name,
                self.command(name),
                env=self.environment(name),
                cwd=self.working_folder(name),
                output=output,
            )

    def working_folder(self, name: str) -> Path:
        """Make the folder in which the command runs, with the mounted files."""
        if self.image(name):
            return ROOT
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir()
            if name == "load-balancer":
                assert self.services[name]["working_dir"] == "/"
                assert self.services[name]["volumes"][0]["target"] == "/traefik"
                shutil.copytree(ROOT / "traefik", folder / "traefik")
                static = folder / "traefik/traefik.yml"
                text = static.read_text()
                # Each container has a loopback of its own.
                for listens, own in (
                    (":9000", f"{self.addresses[name]}:9000"),
                    (INSIDE, self.inside),
                ):
                    assert f'address: "{listens}"' in text
                    text = text.replace(f'"{listens}"', f'"{own}"')
                static.write_text(text)
        return folder

    def log(self, name: str) -> str:
        """Return the service's output."""
        return (self.folder / f"{name}.log").read_text()

    def node(self, number: int) -> redis.Redis:
        """Make a client of one node; the caller closes it."""
        password = (self.folder / "store/admin").read_text().strip()
        address = self.addresses[f"redis-{number}"]
        return redis.Redis(address, username="admin", password=password, decode_responses=True)

    def get(self, path: str, client: str) -> tuple[int, dict[str, str], str]:
        """Send the load balancer a request from this address."""
        connection = http.client.HTTPConnection(
            self.addresses["load-balancer"], 9000, timeout=10, source_address=(client, 0)
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The whole system, started after an interrupted start has left files."""
    if sys.platform != "linux":
        pytest.skip("needs all of 127.0.0.0/8")
    found = System(tmp_path_factory.mktemp("compose"))
    try:
        found.start("redis-2")
        until(lambda: found.is_healthy("redis-2"), what=lambda: found.log("redis-2"))
        with found.node(2) as node:
            node.execute_command("CLUSTER ADDSLOTS", 0, 1, 2)
        found.start("load-balancer")
        until(lambda: found.is_healthy("load-balancer"), what=lambda: found.log("load-balancer"))
        yield found
    finally:
        stop_at_once(found.children.values())


def test_only_the_load_balancer_is_published_and_images_are_pinned() -> None:
    """By their digests, too: a tag can be moved."""
    services = read_compose()["services"]
    published = {name for name, service in services.items() if service.get("ports")}
    images = {service["image"] for service in services.values() if "image" in service}

    assert published == {"load-balancer"}
    assert services["load-balancer"]["ports"][0]["published"] == "9000"
    assert len([name for name in services if name.startswith("redis-") and name[-1].isdigit()]) == 6
    for path in IMAGES:
        images |= {words.split()[0] for words in dockerfile(path, "FROM")}
    for image in images:
        pattern = r"[a-z]+:v?\d+\.\d+\.\d+(-[a-z-]+)?@sha256:[0-9a-f]{64}"
        assert re.fullmatch(pattern, image), image


def test_no_service_has_more_rights_than_it_needs() -> None:
    compose = read_compose()
    assert compose["services"].keys() >= {"passwords", "redis-init", "upstream", *INSTANCES}
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) <= 512 * 2**20, name
        assert service["pids_limit"] == 256, name
        if "image" in service:
            assert int(service["user"].partition(":")[0]) > 100, name  # else its image names a user
        mounts = {mount["target"]: mount for mount in service.get("volumes", ())}
        if name == "passwords":
            assert (service["user"], service["network_mode"]) == ("0:0", "none")
        else:
            assert all(mount["read_only"] for mount in mounts.values()), name
        # Only Redis sees the password of its administrator, and only the instances that of the limiter.
        assert ("/store" in mounts) == (name == "passwords" or name.startswith("redis-"))
        assert ("/password" in mounts) == (name == "passwords" or name in INSTANCES)


def test_redis_shares_no_network_with_the_load_balancer_and_the_upstream() -> None:
    compose = read_compose()
    networks = {name: set(one.get("networks", ())) for name, one in compose["services"].items()}

    assert networks["load-balancer"] == {"world", "applications", "upstream"}
    assert networks["upstream"] == {"upstream"}
    for name in INSTANCES:
        assert networks[name] == {"applications", "store"}
    for name in ("redis-init", *[f"redis-{number}" for number in range(1, 7)]):
        assert networks[name] == {"store"}
    internal = {name for name, network in compose["networks"].items() if network.get("internal")}
    assert internal == {"applications", "store", "upstream"}


def test_settings_come_from_the_users_environment() -> None:
    chosen = {"LIMITER_ALGORITHM": "token_bucket", "LIMITER_LIMITS": "7/minute"}
    compose = read_compose(**chosen)
    networks = compose["services"]["load-balancer"]["networks"]
    assert networks["applications"]["ipv4_address"] == BALANCER
    for name in INSTANCES:
        environment = compose["services"][name]["environment"]
        assert chosen.items() <= environment.items()
        assert environment["LIMITER_TRUSTED_PROXIES"] == f"{BALANCER}/32,127.0.0.1/32"
        assert environment["LIMITER_TIMEOUT"] == "1"
        assert environment["LIMITER_NAME"] is None  # unset, and not empty
        assert not environment["LIMITER_POLICIES"]
        mount = compose["services"][name]["volumes"][0]
        assert (mount["source"], mount["target"]) == ("/dev/null", "/policies.toml")


def test_a_policy_file_is_mounted_at_the_path_of_its_variable() -> None:
    compose = read_compose(LIMITER_POLICIES="./docs/service.toml")
    for name in INSTANCES:
        service = compose["services"][name]
        mount = service["volumes"][0]
        assert mount["source"] == str(ROOT / "docs/service.toml")
        assert mount["read_only"]
        assert mount["target"] == service["environment"]["LIMITER_POLICIES"]


@pytest.mark.parametrize(
    ("image", "command"),
    [(IMAGES[0], "service.app:create_app()"), (IMAGES[1], "0.0.0.0:8001")],
)
def test_an_image_runs_without_a_user_and_copies_existing_files(image: str, command: str) -> None:
    (user,) = dockerfile(image, "USER")
    assert all(int(part) > 1000 for part in user.split(":"))
    assert json.loads(dockerfile(image, "CMD")[0])[-1] == command
    for line in dockerfile(image, "COPY"):
        words = line.split()
        if words[0].startswith("--from"):
            continue
        ignored = (ROOT / f"{image}.dockerignore").read_text().splitlines()
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored


def test_an_instance_has_time_to_drain_and_is_checked_more_often_than_that() -> None:
    """It drains for 5 seconds, and has 3 more to answer what it began."""
    services = read_compose()["services"]
    for name in INSTANCES:
        assert services[name]["stop_grace_period"] == "15s"
    routes = (ROOT / "traefik/dynamic.yml").read_text()
    found = dict(re.findall(r"^ +(interval|timeout): (\d)s$", routes, re.MULTILINE))
    assert int(found["interval"]) + int(found["timeout"]) < 5
    assert routes.count("path: /readyz") == 1
    assert routes.count("&ready") == routes.count("*ready") == 1


@pytest.mark.slow
def test_three_primaries_with_a_replica_each(system: System) -> None:
    def flags() -> list[str]:
        return [line["flags"] for line in node.execute_command("CLUSTER NODES").values()]

    with system.node(1) as node:
        assert len(flags()) == 6
        # Nodes learn by gossip which replica follows which primary.
        until(lambda: sum("master" in flag for flag in flags()) == 3, what=lambda: str(flags()))


@pytest.mark.slow
def test_redis_answers_only_its_two_users(system: System) -> None:
    """The limiter's user can do what `limiter acl` prints, and nothing else."""
    address = system.addresses["redis-1"]
    password = (system.folder / "password/limiter").read_text().strip()
    with redis.Redis(address) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()
    with redis.Redis(address, username="limiter", password=password) as limiter:
        assert limiter.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            limiter.flushall()
        with pytest.raises(redis.exceptions.NoPermissionError):
            limiter.hget("other", "key")


@pytest.mark.slow
def test_the_passwords_stay_when_the_system_starts_again(system: System) -> None:
    files = [system.folder / "store/admin", system.folder / "password/limiter"]
    before = [file.read_text() for file in files]
    command, environment = system.command("passwords"), system.environment("passwords")
    subprocess.run(command, env=environment, timeout=30, check=True)

    assert [file.read_text() for file in files] == before
    assert len(set(before)) == 2
    assert all(len(password.strip()) == 32 for password in before)


@pytest.mark.slow
def test_the_init_step_can_run_again(system: System) -> None:
    done = subprocess.run(
        system.command("redis-init"),
        env=system.environment("redis-init"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "It is a cluster already.\n"


@pytest.mark.slow
def test_ab_sees_the_exact_limit(system: System) -> None:
    counts = ab(f"http://{system.addresses['load-balancer']}:9000/demo-service/hello")

    assert counts.complete == 1000
    assert counts.admitted == 100, counts.report
    assert counts.failed == counts.refused


@pytest.mark.slow
def test_the_upstream_behind_forward_auth_shares_the_limit(system: System) -> None:
    """Flask instances and decision services spend the same units; the fields reach the client."""
    paths = ["/demo-service/hello", "/demo-service/protected/hello"] * 51
    answers = [system.get(path, "127.4.4.4") for path in paths]

    assert [answer[0] for answer in answers] == [200] * 100 + [429] * 2
    assert [answer[1]["Ratelimit"].split(";")[1] for answer in answers[:3]] == [
        *("r=99", "r=98", "r=97")
    ]
    assert json.loads(answers[1][2]) == {"message": "Hello!", "upstream": "upstream"}
    assert answers[-1][1]["Content-Type"] == "application/problem+json"
    assert answers[-1][1]["Cache-Control"] == "no-store"
    assert int(answers[-1][1]["Retry-After"]) > 0


@pytest.mark.slow
def test_each_client_has_its_own_limit_whichever_instance_answers(system: System) -> None:
    """Without LIMITER_TRUSTED_PROXIES every client would be the load balancer."""
    answers = [system.get("/demo-service/hello", "127.5.5.5") for _ in range(4)]
    other = system.get("/demo-service/hello", "127.5.5.6")

    left = [answer[1]["Ratelimit"].split(";")[1] for answer in [*answers, other]]
    assert left == ["r=99", "r=98", "r=97", "r=96", "r=99"]
    assert {json.loads(answer[2])["instance"] for answer in answers} == {"app-1", "app-2"}


@pytest.mark.slow
def test_the_page_is_served_and_counts_clients_separately(system: System) -> None:
    status, headers, text = system.get("/", "127.5.6.7")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>Rate limits at work</h1>" in text
    state = json.loads(system.get("/page/state", "127.5.6.7")[2])
    assert state["subject"] == "127.5.6.7"
    assert state["policies"][0]["state"]["remaining"] == 10


@pytest.mark.slow
def test_a_replica_takes_over(system: System) -> None:
    """After a primary has died, all clients are limited again. The last test, since it kills one."""
    clients = [f"127.6.6.{number}" for number in range(1, 21)]
    system.children["redis-1"].kill()
    time.sleep(2.5)  # longer than the node timeout: the nodes must first notice the failure

    def all_limited() -> bool:
        answers = [system.get("/demo-service/hello", client) for client in clients]
        assert {answer[0] for answer in answers} <= {200, 429}
        return all("Ratelimit" in answer[1] for answer in answers)

    until(all_limited, what=lambda: system.log("app-1"))
