"""The files that others run the server with: read, not run, since no container engine or systemd is to be had here."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from mochi_server.settings import SETTINGS, Settings
from tests.server import Server

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
UNIT = ROOT / "deploy/mochi-server.service"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
NAMES = {setting.variable for setting in SETTINGS}
INSTRUCTIONS = {
    *(
        "ARG",
        "COPY",
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "RUN",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
    ),
    "WORKDIR",
}
OF_A_SERVICE = {
    *("build", "image", "environment", "secrets", "ports", "networks", "volumes", "depends_on", "read_only", "tmpfs"),
    *("cap_drop", "security_opt", "restart", "stop_grace_period", "profiles", "entrypoint"),
}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what follows each, its lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def last(name: str) -> str:
    """What follows the last such instruction."""
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def health_check() -> list[str]:
    """The command that tells whether the container is well."""
    command: list[str] = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    return command


def unit() -> dict[str, list[str]]:
    """The unit's settings; one may stand there more than once."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_dockerfile_has_only_instructions_that_there_are_and_stages_that_it_names() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= set(stages)
    assert all(
        re.fullmatch(r"python:\$\{PYTHON\}-slim( AS \w+)?", rest) for name, rest in instructions() if name == "FROM"
    )


def test_everything_that_the_image_is_made_of_is_there_and_reaches_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in let_in), f"{source} is left out by .dockerignore"
    assert not [pattern for pattern in let_in if pattern.startswith(("sessions", ".git", ".env"))]


def test_the_image_runs_as_nobody_special_and_is_told_to_stop_itself() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last("USER"))
    assert json.loads(last("ENTRYPOINT")) == ["mochi-server"]
    assert last("STOPSIGNAL") == "SIGTERM"
    assert last("VOLUME") == last("WORKDIR") == "/data"
    assert "MOCHI_DATA_DIR=/data" in last("ENV")
    assert not re.search(r"curl|wget|apt-get", DOCKERFILE)


def test_every_setting_that_these_files_name_is_one() -> None:
    for text in (DOCKERFILE, UNIT.read_text("utf-8"), (ROOT / "compose.yaml").read_text("utf-8")):
        assert set(re.findall(r"MOCHI_[A-Z_]+", text)) <= NAMES


def test_the_health_check_tells_a_server_that_is_there_from_one_that_is_not(server: Server) -> None:
    command = [sys.executable, *health_check()[1:]]
    environment = {**os.environ, "MOCHI_PORT": str(server.port)}
    assert subprocess.run(command, env=environment, check=False, timeout=20).returncode == 0
    server.kill()
    ended = subprocess.run(command, env=environment, check=False, timeout=20, stderr=subprocess.DEVNULL)
    assert ended.returncode != 0


def test_compose_has_only_keys_that_there_are_and_names_what_it_declares() -> None:
    assert set(COMPOSE) == {"services", "networks", "volumes", "secrets"}
    for name, service in COMPOSE["services"].items():
        assert set(service) <= OF_A_SERVICE, name
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"])
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= set(COMPOSE["volumes"])


def test_compose_gives_the_server_a_key_a_volume_and_nothing_to_write_to_beside_it() -> None:
    server = COMPOSE["services"]["mochi-server"]
    assert server["environment"]["MOCHI_API_KEY_FILE"] == f"/run/secrets/{server['secrets'][0]}"
    assert server["volumes"] == ["sessions:/data"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])


def test_compose_keeps_ollama_to_itself() -> None:
    ollama = COMPOSE["services"]["ollama"]
    assert "ports" not in ollama
    assert [COMPOSE["networks"][name]["internal"] for name in ollama["networks"]] == [True]


def test_a_stop_is_given_the_time_that_the_server_takes() -> None:
    taken = Settings().shutdown_seconds
    assert seconds(COMPOSE["services"]["mochi-server"]["stop_grace_period"]) >= taken + 5
    assert seconds(unit()["TimeoutStopSec"][0]) >= taken + 5
    assert unit()["KillSignal"] == ["SIGTERM"]


def test_the_unit_does_not_try_again_what_cannot_be_started() -> None:
    assert unit()["RestartPreventExitStatus"] == ["2"]
    assert unit()["ExecStart"][0].endswith("/bin/mochi-server")
    assert unit()["ProtectSystem"] == ["strict"]
    assert unit()["StateDirectory"][0] in unit()["WorkingDirectory"][0]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    copied = tmp_path / UNIT.name
    copied.write_text(UNIT.read_text("utf-8").replace(unit()["ExecStart"][0], sys.executable))
    said = subprocess.run(["systemd-analyze", "verify", str(copied)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
