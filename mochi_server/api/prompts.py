"""System prompts: the files, and the one that a session has."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.answers import PromptFile, PromptList, SessionPrompt
from mochi_server.api.http import etag, json_response, read_json, state
from mochi_server.api.new_session import prompt_text, system_message
from mochi_server.api.sessions import rewritten
from mochi_server.api.shapes import NewPrompt, ReplacePrompt, SetSystemPrompt
from mochi_server.domain.session import Session
from mochi_server.errors import ValidationFailed
from mochi_server.store.prompts import NAMES, is_prompt_name


async def list_prompts(request: Request) -> Response:
    """All system prompt files, by name."""
    return json_response(PromptList(await state(request)["prompts"].listed()))


async def create_prompt(request: Request) -> Response:
    """Make a system prompt file."""
    asked = await read_json(request, NewPrompt)
    if not is_prompt_name(asked.filename):
        raise ValidationFailed(f"`filename` must have {NAMES}.", {"path": "$.filename"})
    await state(request)["prompts"].create(asked.filename, asked.content)
    made = PromptFile(asked.filename, asked.content)
    return json_response(made, 201, {"Location": f"/api/v1/system-prompts/{quote(asked.filename)}"})


async def read_prompt(request: Request) -> Response:
    """One system prompt file."""
    filename = request.path_params["filename"]
    return json_response(PromptFile(filename, await state(request)["prompts"].read(filename)))


async def replace_prompt(request: Request) -> Response:
    """Give a system prompt file another text; sessions that took the one before keep it."""
    asked = await read_json(request, ReplacePrompt)
    filename = request.path_params["filename"]
    await state(request)["prompts"].replace(filename, asked.content)
    return json_response(PromptFile(filename, asked.content))


async def delete_prompt(request: Request) -> Response:
    """Remove a system prompt file; sessions that took it keep its text."""
    await state(request)["prompts"].delete(request.path_params["filename"])
    return Response(status_code=204)


async def set_system_prompt(request: Request) -> Response:
    """Give the session a system prompt; the one before is kept among the detached messages."""
    asked = await read_json(request, SetSystemPrompt)
    content = await prompt_text(request, asked.content, asked.source_file, "$.content", "$.source_file")
    if content is None:
        raise ValidationFailed(
            "Say the system prompt's text in `content`, or name a system prompt file in `source_file`.",
            {"path": "$.content"},
        )

    def with_prompt(session: Session, now: str) -> Session:
        return session.with_system(system_message(content, asked.source_file, now), now)

    saved = await rewritten(request, with_prompt)
    return json_response(SessionPrompt(content=content, source_file=asked.source_file), headers=etag(saved))


async def remove_system_prompt(request: Request) -> Response:
    """Let the session go on without a system prompt."""
    saved = await rewritten(request, lambda s, now: s if s.system is None else s.with_system(None, now))
    return Response(status_code=204, headers=etag(saved))
