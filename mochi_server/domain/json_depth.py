"""How deep a JSON value is nested."""

from typing import Any

DEEPEST_REQUEST = 100
"""What a request may hold: far more than anything means, far less than what exhausts an encoder's stack."""

DEEPEST_FILE = 200
"""What a session's file may hold: room for whatever a request brought, some levels down."""


def is_deeper_than(value: Any, limit: int) -> bool:
    """Whether lists and objects stand in each other more than `limit` times."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
