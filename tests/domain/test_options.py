"""Options are Ollama's own, by name and type."""

from typing import Any

import msgspec
import pytest

from mochi_server.domain.options import OPTION_NAMES, Options

# api.Options and api.Runner of Ollama's api/types.go.
OF_OLLAMA = {
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"),
    *("num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty", "stop"),
}


def test_the_names_are_those_of_ollama() -> None:
    assert set(OPTION_NAMES) == OF_OLLAMA


def test_only_what_is_given_is_sent() -> None:
    given = {"temperature": 0.5, "stop": ["\n"], "use_mmap": False, "seed": -1}
    assert msgspec.convert(given, Options).values() == given
    assert Options().values() == {}


@pytest.mark.parametrize(
    "options",
    [
        {"temprature": 1.0},
        {"temperature": "hot"},
        {"temperature": 1e39},
        {"num_predict": 1.5},
        {"num_predict": 2**31},
        {"num_ctx": 0},
        {"seed": 2**63},
        {"stop": "one"},
        {"stop": ["x"] * 65},
        {"use_mmap": 1},
    ],
    ids=str,
)
def test_what_ollama_would_ignore_or_choke_on_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, Options)
