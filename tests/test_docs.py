"""What the documents name is what the code has, and the other way round."""

import re
from pathlib import Path
from typing import get_args

import msgspec
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from mochi_server import errors
from mochi_server.api import openai_shapes
from mochi_server.api.openai_shapes import ASKING_FOR_NOTHING, ChatCompletion
from mochi_server.api.routes import ROUTES
from mochi_server.chat.generation import StopReason
from mochi_server.domain import events, messages, session
from mochi_server.observability.fields import FIELDS
from mochi_server.observability.metrics import Metrics, Reply
from mochi_server.settings import SETTINGS, Settings

ROOT = Path(__file__).parents[1]
API = (ROOT / "app_specs/http_api.md").read_text("utf-8")
STORAGE = (ROOT / "app_specs/storage.md").read_text("utf-8")
OBSERVABILITY = (ROOT / "app_specs/observability.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
MESSAGES = "And of a message, all other fields (`name`, `reasoning`, ...) being ignored:"


def section(title: str) -> str:
    """The part of the API's document under this heading, its subsections included."""
    level = title.split(" ", 1)[0]
    _, _, rest = API.partition(f"\n{title}\n")
    assert rest, f"there is no section {title!r}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in a text, without heads and rulers."""
    lines = [line.removeprefix("|").removesuffix("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines if "---" not in cells[0]]


def first_cells(text: str) -> set[str]:
    """What is in backquotes in the first column."""
    return {name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])}


def test_every_route_is_documented_and_no_other() -> None:
    documented = {name for name in first_cells(API) if re.match(r"(GET|POST|PUT|PATCH|DELETE) /", name)}
    assert documented == {f"{route.method} {route.shown_path}" for route in ROUTES}


def test_every_error_code_is_documented_with_its_status_and_no_other() -> None:
    documented = {
        (re.sub("`", "", row[0]), int(status))
        for row in rows(section("## Conventions"))
        if row[0].startswith("`")
        for status in re.findall(r"\d{3}", row[1])
    }
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.MochiError) and kind is not errors.MochiError
    ]
    assert documented == {(kind.code, kind.status) for kind in kinds}


def test_every_event_is_documented_with_its_fields_and_no_other() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(section("### The stream")) if row[0].startswith("`")}
    kinds = {kind.name: kind for kind in get_args(events.Event)}
    assert documented.keys() == kinds.keys()
    for name, kind in kinds.items():
        for field in kind.__struct_fields__:
            assert re.search(rf"\b{field}\b", documented[name]), f"{name} does not tell of {field}"


def test_every_setting_is_documented_and_no_other() -> None:
    table = section("## The command")
    assert set(re.findall(r"`(--[a-z-]+)`", table)) == {s.flag for s in SETTINGS if s.flag}
    assert set(re.findall(r"`(MOCHI_[A-Z_]+)`", API)) == {s.variable for s in SETTINGS}
    assert {s.field for s in SETTINGS} == set(Settings.__struct_fields__)


def test_the_documented_defaults_are_those_in_force() -> None:
    defaults = {f.name: f.default for f in msgspec.structs.fields(Settings)}
    told = {row[1].split("`")[1]: row[2] for row in rows(section("## The command")) if "`MOCHI_" in row[1]}
    for setting in SETTINGS:
        default = defaults[setting.field]
        if default in {None, (), False, ""}:
            continue
        number_or_word = told[setting.variable].split(";")[0].split(",")[0].removesuffix(" s").strip("`")
        assert number_or_word == str(default), f"{setting.variable} is {default!r}"


def test_every_field_of_the_file_is_documented_and_no_other() -> None:
    form = STORAGE.partition("## Format 2.0")[2]
    head = form.partition('"messages":')[0]
    documented = set(re.findall(r'"([a-z_]+)"', head)) - {"metadata"}
    assert documented == set(session.Metadata.__struct_fields__) - {"unknown"}
    base = set(messages.MessageBase.__struct_fields__)
    for kind in get_args(messages.Message):
        row = next(row for row in rows(form) if row[0] == f"`{kind.__struct_config__.tag}`")
        plain = re.sub(r"\([^)]*\)", "", row[1])
        assert set(re.findall(r"`([a-z_]+)`", plain)) == set(kind.__struct_fields__) - base


def test_every_reason_for_a_broken_reply_is_documented() -> None:
    for reason in (*get_args(StopReason), "error"):
        assert f"`{reason}`" in STORAGE


def test_every_field_of_a_log_line_is_documented_and_no_other() -> None:
    assert first_cells(OBSERVABILITY.partition("## Metrics")[0]) == {*FIELDS, "left_out"}


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other() -> None:
    metrics = Metrics()
    metrics.request("GET", "/health", 200, 0.1)
    metrics.refused("bad_request")
    metrics.reply(Reply(outcome="complete", total_ms=1.0))
    text = metrics.text("")[0].decode()
    types = dict(re.findall(r"^# TYPE (mochi_\w+) (\w+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for name, told in re.findall(r"^(mochi_\w+?)(?:_bucket|_sum|_count)?\{(.*)\} ", text, re.MULTILINE):
        labels[name] |= set(re.findall(r'(\w+)="', told)) - {"le"}
    table = rows(OBSERVABILITY.partition("## Metrics")[2])
    documented = {row[0].strip("`"): (row[1], set(re.findall(r"`(\w+)`", row[2]))) for row in table if row[0][0] == "`"}
    assert documented == {name: (kind, labels[name]) for name, kind in types.items()}


def test_every_metric_in_the_readme_is_one() -> None:
    for name in re.findall(r"\bmochi_[a-z_]+(?=[{\[])", README):
        assert f"`{name.removesuffix('_bucket')}`" in OBSERVABILITY


def test_paths_in_the_readme_are_routes_or_files() -> None:
    patterns = [re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(route.shown_path)) + r"\Z") for route in ROUTES]
    for path in re.findall(r"http://127\.0\.0\.1:8000(/[\w/.-]*)", README):
        is_base = any(route.path.startswith(f"{path}/") for route in ROUTES)
        assert is_base or any(pattern.match(path) for pattern in patterns), f"the README calls {path}"
    for file in re.findall(r"\]\(([^)#:]+)\)|(?:^|\s)(scripts/[\w-]+)", README):
        assert (ROOT / (file[0] or file[1])).exists(), f"the README names {file}"


def table_of(title: str) -> list[list[str]]:
    """The rows of the README's table behind this line."""
    _, found, rest = README.partition(f"\n{title}\n\n")
    assert found, f"the README has no {title!r}"
    return rows(rest.split("\n\n")[0])[1:]


def test_every_field_of_openais_own_client_is_in_the_table_as_the_code_has_it() -> None:
    verdicts = {row[0].strip("`"): row[1] for row in table_of("What each field of a request does:")}
    known = {*CompletionCreateParamsBase.__annotations__, "stream"}
    fields = set(ChatCompletion.__struct_fields__)
    assert verdicts.keys() == known
    assert {name for name, verdict in verdicts.items() if verdict != "ignored"} == fields
    assert {name for name, verdict in verdicts.items() if verdict == "refused"} == set(ASKING_FOR_NOTHING)


def test_every_role_and_every_kind_of_part_is_in_the_table_as_the_code_has_it() -> None:
    supported = {row[0].strip("`") for row in table_of(MESSAGES) if row[1] == "supported"}
    roles = {f"role: {kind.__struct_config__.tag}" for kind in get_args(openai_shapes.Message)}
    parts = (openai_shapes.TextPart, openai_shapes.ImagePart, openai_shapes.RefusalPart)
    assert supported == {*roles, *(f"content: {part.__struct_config__.tag}" for part in parts), "content", "tool_calls"}
