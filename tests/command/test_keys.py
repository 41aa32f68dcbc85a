"""Where keys come from, which there may be, and that none is shown to anybody."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from mochi_server.command_line import read_settings
from mochi_server.keys import LARGEST_FILE, LONGEST, SHORTEST, digest
from mochi_server.settings import Settings, SettingsError
from tests.api.wire import exchange
from tests.command.test_command import refusal as refused_start
from tests.command.test_command import run
from tests.server import Server

KEY, OTHER = "s3cret-Key!#0", "another-secret"
NOWHERE = "http://127.0.0.1:9"


def read(*arguments: str, environment: Mapping[str, str] | None = None) -> Settings:
    return read_settings(arguments, environment or {}, Path("/nowhere"))


def refusal(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """The one line that the start is refused with."""
    with pytest.raises(SettingsError) as caught:
        read(*arguments, environment=environment)
    line = str(caught.value)
    assert line.isprintable()
    return line


def digests(*keys: str) -> tuple[bytes, ...]:
    return tuple(digest(key.encode()) for key in keys)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(0o600)
    return path


@pytest.mark.parametrize("text", [KEY, f" {KEY} ", f"{KEY},", f"{KEY},{KEY}"])
def test_a_key_comes_from_the_environment(text: str) -> None:
    assert read(environment={"MOCHI_API_KEY": text}).api_key == digests(KEY)


def test_several_keys_are_separated_by_commas_or_stand_one_a_line(key_file: Path) -> None:
    assert read(environment={"MOCHI_API_KEY": f"{KEY}, {OTHER}"}).api_key == digests(KEY, OTHER)
    key_file.write_bytes(b"\xef\xbb\xbf# mine\r\n\r\n  s3cret-Key!#0\t\r\n\n#old-secret-key\nanother-secret")
    for given in (["--api-key-file", str(key_file)], [f"--api-key-file={key_file}"]):
        assert read(*given).api_key == digests(KEY, OTHER)
    assert read(environment={"MOCHI_API_KEY_FILE": str(key_file)}).api_key == digests(KEY, OTHER)


def test_those_of_the_environment_and_those_of_the_file_all_count(key_file: Path) -> None:
    key_file.write_text(f"{OTHER}\n{KEY}\n")
    environment = {"MOCHI_API_KEY": f"{KEY},third-secret", "MOCHI_API_KEY_FILE": str(key_file)}
    assert set(read(environment=environment).api_key) == set(digests(KEY, OTHER, "third-secret"))


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_variable_is_an_unset_one(text: str) -> None:
    assert read(environment={"MOCHI_API_KEY": text, "MOCHI_API_KEY_FILE": text}).api_key == ()


BAD = [
    "short-1",
    "with a space",
    "tab\there-and-there",
    "x" * (LONGEST + 1),
    "schlüssel-é",
    "nul\x00-in-the-key",
    "\x7f" * 9,
]


@pytest.mark.parametrize("key", BAD, ids=ascii)
def test_a_key_that_makes_no_sense_is_refused_and_not_shown(key_file: Path, key: str) -> None:
    key_file.write_text(f"{OTHER}\n{key}\n")
    for line in (
        refusal(environment={"MOCHI_API_KEY": f"{OTHER},{key}"}),
        refusal("--api-key-file", str(key_file)),
    ):
        assert f"{SHORTEST} to {LONGEST} printable ASCII characters" in line
        assert "key 2 of 2" in line
        assert key not in line
        assert OTHER not in line


def test_keys_of_the_shortest_and_of_the_longest_length_are_taken() -> None:
    keys = ("x" * SHORTEST, "~" * LONGEST)
    assert read(environment={"MOCHI_API_KEY": ",".join(keys)}).api_key == digests(*keys)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no key"),
        (b"\n\n# nothing\n", "holds no key"),
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b"#" * (LARGEST_FILE + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_list_of_keys_is_refused(key_file: Path, content: bytes, reason: str) -> None:
    key_file.write_bytes(content)
    line = refusal("--api-key-file", str(key_file))
    assert line.startswith("--api-key-file (MOCHI_API_KEY_FILE): the file ")
    assert reason in line


@pytest.mark.parametrize(
    "path", ["", "gone/away", ".", "a-secret-that-ended-up-here", "x" * 4000, "~nobody-of-this-name/x"]
)
def test_a_file_that_cannot_be_read_is_refused_and_its_name_not_shown(tmp_path: Path, path: str) -> None:
    given = path if path.startswith(("a-", "x", "~")) or not path else str(tmp_path / path)
    line = refusal(f"--api-key-file={given}")
    assert "--api-key-file" in line
    assert not path.strip(".") or path not in line


def test_an_endless_file_does_not_hold_up_the_start() -> None:
    assert "larger than" in refusal("--api-key-file", "/dev/zero")


@pytest.mark.parametrize("text", [",", " , ,"])
def test_commas_alone_are_no_keys(text: str) -> None:
    assert "holds no key" in refusal(environment={"MOCHI_API_KEY": text})


@pytest.mark.parametrize(
    "arguments",
    [["--api-key", KEY], [f"--api-key={KEY}"], ["--api-keys", KEY], ["--key", KEY], [KEY], ["--port", "1", KEY, "--x"]],
)
def test_no_flag_takes_a_key_and_one_that_was_tried_is_not_shown(arguments: list[str]) -> None:
    line = refusal(*arguments)
    assert KEY not in line
    assert "--help" in line
    assert not arguments[0].startswith(("--api", "--key")) or "MOCHI_API_KEY" in line


def test_the_settings_hold_no_key_that_could_be_shown() -> None:
    settings = read(environment={"MOCHI_API_KEY": KEY})
    assert KEY not in repr(settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104 - that it is refused is the point
def test_beyond_this_machine_a_key_is_needed(host: str) -> None:
    line = refusal("--host", host)
    assert "--api-key-file" in line
    assert "MOCHI_API_KEY" in line
    assert read("--host", host, environment={"MOCHI_API_KEY": KEY}).host == host


def test_a_start_with_bad_keys_ends_in_one_line(tmp_path: Path) -> None:
    line = refused_start(run(tmp_path, "--port", "0", environment={"MOCHI_API_KEY": f"{KEY},no key"}))
    assert KEY not in line
    assert "no key" not in line.replace("is no key", "")
    line = refused_start(run(tmp_path, "--port", "0", "--api-key-file", "gone"))
    assert "No such file" in line
    assert "gone" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True), (0o640, True)])
def test_a_key_file_that_others_can_read_is_warned_of(key_file: Path, mode: int, warned: bool) -> None:
    key_file.write_text(KEY)
    key_file.chmod(mode)
    folder = key_file.parent / "data"
    folder.mkdir()
    with Server(folder, NOWHERE, "--api-key-file", str(key_file)) as server:
        assert exchange(server.port, "GET", "/api/v1/sessions").status_code == 401
        assert exchange(server.port, "GET", "/api/v1/sessions", [("Host", "x"), ("X-API-Key", KEY)]).status_code == 200
        warnings = [line["event"] for line in server.log_lines() if line["level"] == "warning"]
    assert len(warnings) == warned
    assert not warned or "chmod 600" in warnings[0]
    assert KEY not in server.log.read_text()


def test_keys_may_come_from_a_pipe_as_a_shell_makes_it(tmp_path: Path) -> None:
    through = ("bash", "-c", f'exec "$@" --api-key-file <(echo "{KEY}")', "bash")
    with Server(tmp_path, NOWHERE, through=through) as server:
        assert exchange(server.port, "GET", "/api/v1/sessions").status_code == 401
        assert not [line for line in server.log_lines() if line["level"] == "warning"]
