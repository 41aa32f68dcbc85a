"""The demo model, asked over a real socket; faster than it is wherever its pace is not the point."""

from collections.abc import Iterator

import pytest

from mochi_server.ollama.demo import demo_standin
from tests.raw_http import RawAnswer, chat, exchange
from tests.standin_thread import StandInThread

EARLIER = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]


@pytest.fixture(scope="module")
def demo() -> Iterator[StandInThread]:
    with StandInThread(demo_standin(words_per_second=5000)) as running:
        yield running


def ask(demo: StandInThread, *messages: dict[str, str], think: bool = False) -> RawAnswer:
    return chat(demo.url, model="demo", messages=list(messages), think=think)


def text(answer: RawAnswer) -> str:
    return "".join(line["message"]["content"] for line in answer.lines)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def test_it_says_what_it_is_and_what_it_was_asked(demo: StandInThread) -> None:
    answer = ask(demo, user("What is\na session? " + "x" * 100))

    assert "not a language model" in text(answer)
    assert f'"What is a session? {"x" * 40}…"' in text(answer)
    assert "no earlier message" in text(answer)
    assert answer.lines[-1]["done_reason"] == "stop"


def test_it_tells_how_much_of_the_session_reached_it(demo: StandInThread) -> None:
    answer = ask(demo, {"role": "system", "content": "Be brief."}, *EARLIER, user("three"))

    assert "With it came 2 earlier messages and the system prompt" in text(answer)


def test_the_next_message_and_a_regenerated_one_get_another_tip(demo: StandInThread) -> None:
    first, again, second = (text(ask(demo, *asked)) for asked in ([user("a")], [user("a")], [*EARLIER, user("b")]))

    tips = [reply.partition("A tip: ")[2] for reply in (first, again, second)]
    assert tips[0] != tips[1]
    assert tips[0] != tips[2]
    assert all(tips)


def test_it_streams_word_by_word_and_thinks_when_asked_to(demo: StandInThread) -> None:
    lines = ask(demo, user("hm"), think=True).lines[:-1]

    thoughts = [line["message"]["thinking"] for line in lines if "thinking" in line["message"]]
    words = [line["message"]["content"] for line in lines if "thinking" not in line["message"]]
    assert thoughts
    assert all(len(piece.split()) == 1 for piece in (*thoughts, *words))
    assert "thinking" in lines[0]["message"]


def test_its_pace_is_about_thirty_words_a_second() -> None:
    with StandInThread(demo_standin()) as demo:
        last = ask(demo, user("how fast?")).lines[-1]

    assert 10 < last["eval_count"] / (last["eval_duration"] / 1e9) < 40


def test_it_is_listed_with_its_capabilities(demo: StandInThread) -> None:
    (model,) = exchange(demo.url, "GET", "/api/tags").lines[0]["models"]
    (shown,) = exchange(demo.url, "POST", "/api/show", b'{"model": "demo"}').lines

    assert (model["name"], model["details"]["family"]) == ("demo:latest", "demo")
    assert shown["capabilities"] == ["completion", "thinking"]
    assert shown["model_info"]["demo.context_length"] == 8192
