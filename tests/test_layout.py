"""The house: which room imports which, what only one room may do, and how large things get."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mochi_server"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the roof down. An import may only point to its own room or to one further down.
HOUSE = (
    "__main__",
    "migrate_command",
    "command_line",
    "connections",
    "app",
    "api",
    "keys",
    "settings",
    "chat",
    "store",
    "ollama",
    "observability",
    "domain",
    "errors",
)

# What only these rooms may import.
RESERVED = {
    "starlette": {"api"},
    "sse_starlette": {"api"},
    "uvicorn": {"__main__", "connections"},
    "argparse": {"command_line", "migrate_command"},
    "ollama": {"ollama"},
    "httpx": {"ollama"},
    "httptools": {"ollama", "connections"},
    "structlog": {"observability"},
    "prometheus_client": {"observability"},
}

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def place(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def test_imports_only_point_down_the_house() -> None:
    upward = [
        f"{place(module)} imports {imported}"
        for module in MODULES
        for imported in imports(module)
        if imported.startswith("mochi_server.") and HOUSE.index(room(module)) > HOUSE.index(imported.split(".")[1])
    ]
    assert upward == []


def test_every_module_has_its_room() -> None:
    assert {room(module) for module in MODULES} - {"__init__"} == set(HOUSE)


def test_what_belongs_to_one_room_is_imported_in_no_other() -> None:
    strays = [
        f"{place(module)} imports {imported}"
        for module in MODULES
        for imported in imports(module)
        if room(module) not in RESERVED.get(imported.split(".")[0], {room(module)})
    ]
    assert strays == []


def test_the_domain_does_no_io() -> None:
    pure = {
        "codecs",
        "collections",
        "datetime",
        "hashlib",
        "itertools",
        "math",
        "mochi_server",
        "msgspec",
        "re",
        "typing",
    }
    strays = [
        f"{place(module)} imports {imported}"
        for module in MODULES
        if room(module) == "domain"
        for imported in imports(module)
        if imported.split(".")[0] not in pure
    ]
    assert strays == []


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_modules_and_functions_can_be_seen_at_once(module: Path) -> None:
    text = module.read_text("utf-8")
    assert text.count("\n") <= MOST_LINES
    long = [
        f"{node.name} has {lines} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    ]
    assert long == []


def room(module: Path) -> str:
    first = module.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """The modules that this one imports, by full name."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(module)}: a relative import hides where it points"
            if node.module == "mochi_server":
                yield from (f"mochi_server.{a.name}" for a in node.names if a.name != "__version__")
            else:
                yield node.module or ""
