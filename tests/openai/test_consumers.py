"""Programs that people have, as they are: LangChain, and the command `llm`. Only the base URL is told to them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.pictures import SEEING, base64_of, png
from tests.server import LIMIT, Server
from tests.standin_thread import StandInThread
from tests.tiny_models import ANSWER, HELLO

SAID = "".join(HELLO)
MODELS = """
- model_id: tools
  model_name: tiny-tools
  api_base: {url}/v1
  supports_tools: true
"""
FUNCTION = """
def get_weather(city: str) -> str:
    "Weather in a city"
    return f"{city}: sunny"
"""


@tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    return f"{city}: sunny"


class City(BaseModel):
    """What `tiny-json` says."""

    city: str
    n: int


def langchain(server: Server, model: str = "tiny", **options: object) -> ChatOpenAI:
    fields = {"base_url": f"{server.url}/v1", "api_key": SecretStr("none"), "model": model, "max_retries": 0, **options}
    return ChatOpenAI.model_validate(fields)


def test_langchain_invokes_and_streams(server: Server) -> None:
    answer = langchain(server).invoke("hi")
    assert (answer.content, answer.response_metadata["finish_reason"]) == (SAID, "stop")
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == len(HELLO) + 1
    chunks = list(langchain(server, stream_usage=True).stream("hi"))
    assert "".join(chunk.text for chunk in chunks) == SAID
    assert [c.usage_metadata for c in chunks if isinstance(c, AIMessageChunk) and c.usage_metadata]


def test_langchain_calls_a_tool_and_tells_its_result(server: Server) -> None:
    model = langchain(server, "tiny-tools").bind_tools([get_weather])
    history: list[BaseMessage] = [HumanMessage("hi")]
    calling = model.invoke(history)
    assert isinstance(calling, AIMessage)
    assert [call["args"] for call in calling.tool_calls] == [{"city": "Paris"}]
    results = [get_weather.invoke(call) for call in calling.tool_calls]
    assert model.invoke([*history, calling, *results]).content == SAID

    chunks = [chunk for chunk in model.stream("hi") if isinstance(chunk, AIMessageChunk)]
    gathered = add_ai_message_chunks(*chunks)
    assert [call["args"] for call in gathered.tool_calls] == [{"city": "Paris"}]


def test_langchain_gets_what_its_schema_asks_for(server: Server, standin: StandInThread) -> None:
    assert langchain(server, "tiny-json").with_structured_output(City).invoke("hi") == City(city="Paris", n=3)
    assert set(standin.chats[-1].json["format"]["properties"]) == {"city", "n"}


def test_langchain_shows_an_image(server: Server, standin: StandInThread) -> None:
    [sent] = base64_of(png(5))
    shown = {"type": "image", "base64": sent, "mime_type": "image/png"}
    langchain(server, SEEING).invoke([HumanMessage([{"type": "text", "text": "look"}, shown])])
    assert standin.chats[-1].json["messages"] == [{"role": "user", "content": "look", "images": [sent]}]


def test_langchain_remembers_in_a_session(server: Server) -> None:
    session = server.new_session()
    model = langchain(server, default_headers={"X-Session-Id": session})
    model.invoke("one")
    "".join(str(chunk.content) for chunk in model.stream("two"))
    assert [content for role, content in server.contents(session) if role == "user"] == ["one", "two"]


def test_langchain_is_not_troubled_by_thinking(server: Server) -> None:
    assert langchain(server, "tiny-think").invoke("hi").content == "".join(ANSWER)


@pytest.fixture
def llm(server: Server, tmp_path: Path) -> Path:
    """The folder of an `llm` that knows this server."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=server.url))
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "LLM_USER_PATH": str(folder)}
    command = [sys.executable, "-m", "llm", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_llm_streams_runs_a_tool_and_goes_on_with_what_was_said(llm: Path, standin: StandInThread) -> None:
    assert run(llm, "-m", "tools", "hi", "--functions", FUNCTION) == SAID
    assert run(llm, "--continue", "--no-stream", "more") == SAID
    roles = [message["role"] for message in standin.chats[-1].json["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
