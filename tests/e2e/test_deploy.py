"""What `deploy` holds for containers: read, and run as far as that goes without an engine.

Not here, because there is no engine where tests run: building the image, and starting it. The unit is in `test_serve`.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from .harness import REPOSITORY, Process, Project, free_port, program, wait_for

DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
COMPOSE = DEPLOY / "compose.yaml"
NODES = (1, 2, 3)
#: The number of the nodes' user: volumes outlive images.
USER = 10001


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, each with its arguments on one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


def arguments(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def in_image(name: str) -> str:
    """The last one is what the image has."""
    return arguments(name)[-1]


def copied_from_checkout() -> list[str]:
    words = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from")]
    return [source for *sources, _ in words for source in sources]


def environment_of_image() -> dict[str, str]:
    return dict(word.split("=", 1) for rest in arguments("ENV") for word in rest.split())


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


def services() -> dict[str, dict[str, Any]]:
    return compose()["services"]


# The image


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = copied_from_checkout()
    assert copied
    for source in copied:
        assert (REPOSITORY / source).exists(), f"the Dockerfile copies {source}, which is not there"
        assert source in taken, f"the Dockerfile copies {source}, which Dockerfile.dockerignore leaves out"
    assert taken == set(copied), "what is taken in is copied"


def test_the_build_sees_the_whole_workspace() -> None:
    manifest = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())
    copied = copied_from_checkout()
    for member in manifest["workspace"]["members"]:
        folder = member.removesuffix("/*")
        is_there = any(Path(folder).is_relative_to(each) for each in copied)
        assert is_there, f"cargo reads {folder}, a member of the workspace, which the image does not have"
    # Files of the checkout that are compiled in.
    for source in (REPOSITORY / "crates").rglob("*.rs"):
        for found in re.findall(r"include_(?:str|bytes)!\(\s*\"([^\"]+)\"", source.read_text()):
            path = (source.parent / found).resolve().relative_to(REPOSITORY)
            is_there = any(path.is_relative_to(each) for each in copied) or "tests" in source.parts
            assert is_there, f"{source} includes {path}, which the image does not have"
    rust = re.search(r"^rust:(\S+?)-", arguments("FROM")[0])
    assert rust and rust[1] == manifest["workspace"]["package"]["rust-version"]


def test_the_image_is_a_node_with_a_user_of_its_own() -> None:
    made = " ".join(arguments("RUN"))
    assert in_image("USER") == f"{USER}:{USER}" and f"--gid {USER}" in made and f"--uid {USER}" in made
    assert in_image("EXPOSE").split() == ["4747/udp", "4748/udp"]
    assert (in_image("VOLUME"), in_image("STOPSIGNAL")) == ("/var/lib/coda", "SIGTERM")
    assert [*json.loads(in_image("ENTRYPOINT")), *json.loads(in_image("CMD"))] == [
        *("coda", "serve", "--config", "/etc/coda/node.toml")
    ]
    # What is in the image as its settings agrees with all of that.
    settings = tomllib.loads((DEPLOY / "node.toml").read_text())
    assert settings["node"]["data_dir"] == in_image("VOLUME")
    keys = json.loads(
        subprocess.run(
            [program("coda-admin"), "config", "keys", "-o", "json"], check=True, capture_output=True, text=True
        ).stdout
    )["keys"]
    files = {key["key"]: key["default"] for key in keys if key["key"].startswith("tls.")}
    image = environment_of_image()
    assert [image["CODA_CA"], image["CODA_CERT"], image["CODA_KEY"]] == [
        f"/etc/coda/{files[key]}" for key in ("tls.ca", "tls.cert", "tls.key")
    ]


def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: the Dockerfile was not linted")
    # Versions of Debian's packages are Debian's to choose: those of a release get repairs only.
    command = ["hadolint", "--ignore", "DL3008", str(DOCKERFILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# Three nodes


def test_compose_reads_its_file() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed: Compose has not read compose.yaml")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("Docker Compose is not installed: it has not read compose.yaml")
    command = ["docker", "compose", "--file", str(COMPOSE), "--profile", "ops", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_services_fit_together() -> None:
    volumes = set(compose()["volumes"])
    mounted: set[str] = set()
    for name, service in services().items():
        assert service["image"] == "coda", name
        for other, wanted in service.get("depends_on", {}).items():
            assert other in services(), f"{name} waits for {other}"
            assert wanted["condition"] in ("service_healthy", "service_completed_successfully"), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), f"{name} mounts {source}"
            else:
                assert source in volumes, f"{name} mounts {source}"
                mounted.add(source)
    assert mounted == volumes
    build = services()["certificates"]["build"]
    assert (DEPLOY / build["context"]).resolve() == REPOSITORY
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE


def test_nodes_have_volumes_and_ports_of_their_own_and_little_else() -> None:
    published = set()
    for number in NODES:
        node = services()[f"node-{number}"]
        (port,) = node["ports"]
        outside, inside = port.split(":")
        assert inside == "4747/udp" and int(outside) == 4740 + number
        published.add(outside)
        assert node["volumes"] == [f"node-{number}-etc:/etc/coda:ro", f"node-{number}-data:/var/lib/coda"]
        assert node["read_only"] is True and node["cap_drop"] == ["ALL"]
        assert "user" not in node and "entrypoint" not in node and "command" not in node
        assert node["stop_grace_period"] == "30s"
        assert services()["form"]["depends_on"][f"node-{number}"] == {"condition": "service_healthy"}
    assert len(published) == len(NODES)
    # The authority's key is seen by whoever makes certificates, who reaches nobody.
    assert [name for name, each in services().items() if any("ca:" in v for v in each.get("volumes", []))] == [
        "certificates"
    ]
    assert services()["certificates"]["network_mode"] == "none"


class Made:
    """What the scripts of `compose.yaml` make, and the nodes that run on it, on loopback instead of in containers."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.folder = project.folder / "made"
        # Mounted volumes are there before the script is.
        for name in ("ca", "ops", *(f"node-{number}" for number in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.addresses = {number: f"127.0.0.1:{free_port()}" for number in NODES}

    def script(self, service: str, *words: str, env: dict[str, str] | None = None) -> str:
        """The script that a service mounts, with other words than there."""
        (mounted,) = (volume.split(":")[0] for volume in services()[service]["volumes"] if ".sh:" in volume)
        done = self.project.command("sh", str(DEPLOY / mounted), *words, env=env)
        assert done.status == 0, done
        return done.out

    def certificates(self, **env: str) -> str:
        entrypoint = services()["certificates"]["entrypoint"]
        assert entrypoint[2] == "/made"
        return self.script("certificates", str(self.folder), *entrypoint[3:], env=env)

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def start(self, number: int) -> Process:
        """With addresses of loopback in the place of a container's."""
        etc, address, peer = self.folder / f"node-{number}", self.addresses[number], f"127.0.0.1:{free_port()}"
        settings = {
            "CODA_NODE__DATA_DIR": str(self.project.folder / f"data-{number}"),
            "CODA_LISTEN__CLIENT": address,
            "CODA_LISTEN__ADVERTISE_CLIENT": address,
            "CODA_LISTEN__PEER": peer,
            "CODA_LISTEN__ADVERTISE_PEER": peer,
        }
        command = [program("coda"), "serve", "--config", str(etc / "node.toml")]
        node = Process(self.project, f"node-{number}", command, {**self.container(number), **settings})
        node.spawn().wait_until_it_says(f"coda is ready on {address}")
        return node

    def container(self, number: int) -> dict[str, str]:
        """The image's environment, as far as it can be outside of it."""
        image = environment_of_image()
        assert image["CODA_ADDRESS"] == "127.0.0.1:4747"
        etc = str(self.folder / f"node-{number}")
        files = {name: path.replace("/etc/coda", etc) for name, path in image.items() if name != "CODA_ADDRESS"}
        return {"CODA_ADDRESS": self.addresses[number], **files}


def test_the_scripts_make_what_nodes_need_and_a_cluster_of_them(project: Project) -> None:
    made = Made(project)
    made.certificates()
    before = made.files()
    assert made.certificates() == "" and made.files() == before, "said again, nothing changes"
    for number in NODES:
        path = made.folder / f"node-{number}" / "node.toml"
        checked = project.command("coda-admin", "config", "check", str(path), "-o", "json").json()
        settings = {each["key"]: each["value"] for each in checked["settings"]}
        volume = f"node-{number}-data:{settings['node.data_dir']}"
        assert settings["node.id"] == number and volume in services()[f"node-{number}"]["volumes"]
        inside = {settings["listen.client"].split(":")[1], settings["listen.peer"].split(":")[1]}
        assert {f"{port}/udp" for port in inside} == set(in_image("EXPOSE").split())
        assert settings["listen.advertise_client"] == f"node-{number}:4747"
        assert settings["client.require_certificate"] is True
        for key in ("tls.ca", "tls.cert", "tls.key"):
            assert Path(settings[key]).is_relative_to(path.parent) and Path(settings[key]).exists()
        assert f"node-{number}/ca.key" not in before

    for number in NODES:
        made.start(number)
    healthy = json.loads(re.search(r"CMD (\[.*\])", in_image("HEALTHCHECK"))[1])
    for number in NODES:
        answer = project.command(*healthy, env=made.container(number))
        assert answer.status == 0 and "in no cluster" in answer.out, answer
    client = services()["form"]["environment"]
    assert services()["ops"]["environment"] == client
    addresses = [made.addresses[number] for number in NODES]
    assert services()["form"]["entrypoint"][2:] == client["CODA_ADDRESS"].split(",")
    files = {name: path.replace("/ops", str(made.folder / "ops")) for name, path in client.items()}
    operator = {**files, "CODA_ADDRESS": ",".join(addresses)}
    for _ in range(2):
        assert made.script("form", *addresses, env=operator).splitlines()[-1] == "healthy"
    status = project.command("coda-admin", "cluster", "status", "-o", "json", env=operator).json()
    assert [(node["node"], node["state"]) for node in status["nodes"]] == [(number, "active") for number in NODES]
    assert status["cluster"]["groups"] == len(NODES)
    wait_for("every node to know it", lambda: project.command(*healthy, env=made.container(3)).out.count("active"))


def test_an_address_for_programs_outside_is_what_is_published(project: Project) -> None:
    made = Made(project)
    made.certificates(CODA_HOST="192.0.2.7", OWNER=f"{os.getuid()}:{os.getgid()}")
    for number in NODES:
        settings = tomllib.loads((made.folder / f"node-{number}" / "node.toml").read_text())
        (port,) = services()[f"node-{number}"]["ports"]
        assert settings["listen"]["advertise_client"] == f"192.0.2.7:{port.split(':')[0]}"
        assert settings["listen"]["advertise_peer"] == f"node-{number}:4748"


def test_nothing_secret_gets_into_the_image() -> None:
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    for path in (".coda/certs/node.key", "deploy/ca/ca.key", ".git/config", ".cluster/node-1/certs/node.key"):
        taken = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
        assert not any(fnmatch.fnmatch(path, rule) or path.startswith(rule + "/") for rule in taken), path
