"""One example of everything that is sent and told, as values of the types themselves."""

from typing import Any

import msgspec

from mochi_server import __version__
from mochi_server.api import answers, openai, openai_answer, openai_shapes, shapes
from mochi_server.api.schemas import in_words
from mochi_server.chat.generation import Stopped
from mochi_server.domain import events
from mochi_server.domain.messages import AssistantMessage, Context, Stats, SystemMessage, UserMessage
from mochi_server.domain.options import Options
from mochi_server.domain.session import Metadata
from mochi_server.errors import MochiError
from mochi_server.store.index import Summary
from mochi_server.store.prompts import ListedPrompt

SESSION_ID, GENERATION_ID, QUESTION_ID, REPLY_ID = "1970cc586e", "7f3e0a91bc", "42d6283a9e", "c01f77aa30"
AT, LATER = "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:04.250000Z"
MODEL, QUESTION = "llama3.2:latest", "Why is the sky blue?"
OLLAMA_HOST = "http://127.0.0.1:11434"

_card = openai.ModelCard(id=MODEL, created=1769860800, owned_by="library")
_prompt = answers.PromptFile("brief.md", "Answer in one sentence.")
_system = SystemMessage(content=_prompt.content, message_id="0a7be2bb10", timestamp=AT, source_file="brief.md")
_question = UserMessage(content=QUESTION, message_id=QUESTION_ID, timestamp=AT)
_stats = Stats(ttft_ms=210.5, total_ms=1840.2, load_ms=12.0, tokens_per_second=41.7, outgrew_window=False)
_reply = AssistantMessage(
    content="Air scatters blue light more than red.",
    message_id=REPLY_ID,
    parent_id=QUESTION_ID,
    timestamp=LATER,
    model=MODEL,
    eval_count=9,
    prompt_eval_count=31,
    done_reason="stop",
    options={"temperature": 0.2},
    context=Context(window=4096, messages_sent=2),
    stats=_stats,
)
_window = events.ContextWindow(current_window=4096, usage_tokens=40, reason="ollama_default")
_metadata = Metadata(
    session_id=SESSION_ID,
    model=MODEL,
    title="The sky",
    created_at=AT,
    updated_at=LATER,
    message_count=3,
    revision="9b1f0c5de2a37c44",
    options={"temperature": 0.2},
    tool_settings={"tools": [], "execution_policy": "always_confirm", "tool_policies": {}},
    agent_settings={"enabled_agents": []},
)
_messages = (_system, _question, _reply)
_model = answers.ModelInfo(
    name=MODEL,
    size_mb=2019.4,
    format="gguf",
    family="llama",
    parameter_size="3.2B",
    quantization_level="Q4_K_M",
    capabilities=("completion", "tools"),
    context_length=131072,
)
_status = answers.SessionStatus(
    session_id=SESSION_ID,
    model=MODEL,
    message_count=3,
    context_window=answers.WindowStatus(
        dynamic_enabled=True,
        current_window=4096,
        usage_tokens=40,
        estimated_tokens=44,
        remaining_tokens=4052,
        reason="ollama_default",
        model_max_context=131072,
        manual_override=False,
    ),
    execution_policy="always_confirm",
    system_prompt_file="brief.md",
    summary=None,
    summary_model=None,
    generation=answers.RunningReply(generation_id=GENERATION_ID, phase="queued", age_ms=120, position=1),
)
_error = events.ErrorEvent(
    code="ollama_unreachable",
    message=f"Ollama cannot be reached at {OLLAMA_HOST}. Is it running? Start it with: ollama serve",
    details={"ollama_host": OLLAMA_HOST},
    correlation_id="4f1c-2a",
)

_SENT: tuple[msgspec.Struct, ...] = (
    shapes.CreateSession(model="llama3.2", system_prompt_source_file="brief.md", title="The sky"),
    shapes.ChangeSession(title=None, options=Options(temperature=0.2)),
    shapes.EditMessage("Why is the sky red at dusk?"),
    shapes.SetSystemPrompt(content="Answer in one sentence."),
    shapes.SetHead(REPLY_ID),
    shapes.NewPrompt("brief.md", "Answer in one sentence."),
    shapes.ReplacePrompt("Answer in two sentences."),
    shapes.FirstChatRequest(model="llama3.2", message=QUESTION),
    shapes.ChatRequest(message=QUESTION, options=Options(temperature=0.2)),
    shapes.StopRequest(GENERATION_ID),
    openai_shapes.ChatCompletion(model="llama3.2", messages=[openai_shapes.UserMessage(content=QUESTION)]),
)
_TOLD: dict[Any, msgspec.Struct] = {
    answers.SessionPage[Summary]: answers.SessionPage(
        sessions=[
            Summary(
                session_id=SESSION_ID,
                model=MODEL,
                title="The sky",
                created_at=AT,
                updated_at=LATER,
                message_count=3,
                summary=None,
                preview=_reply.content,
            )
        ],
        next_cursor=None,
        total=1,
        damaged=[answers.DamagedSession("00000000aa", "it is not JSON, or cut short")],
    ),
    answers.EditedMessage[UserMessage]: answers.EditedMessage(
        session_id=SESSION_ID, message_index=1, message_count=2, message=_question
    ),
    answers.WholeReply[AssistantMessage]: answers.WholeReply(
        session_id=SESSION_ID, message=_reply, context_window=_window
    ),
    openai.ModelCards: openai.ModelCards(data=[_card]),
    answers.WholeSession: answers.WholeSession(**msgspec.structs.asdict(_metadata), messages=_messages),
    **{
        type(one): one
        for one in (
            answers.Health(
                version=__version__, ollama_connected=True, ollama_host=OLLAMA_HOST, ollama_version="0.13.0"
            ),
            answers.Ready(),
            answers.NotReady(reason="Ollama does not answer in time."),
            answers.ModelList([_model]),
            _model,
            _metadata,
            answers.MessageList(_messages),
            answers.TruncatedSession(session_id=SESSION_ID, message_count=1),
            _status,
            answers.MessageTree((_question, _reply), REPLY_ID),
            answers.SessionPrompt(content="Answer in one sentence.", source_file="brief.md"),
            answers.PromptList([ListedPrompt("brief.md", "Answer in one sentence.", 4)]),
            _prompt,
            _card,
            openai_answer.Completion(
                id=f"chatcmpl-{GENERATION_ID}",
                created=1769860800,
                model=MODEL,
                choices=[
                    openai_answer.Choice(message=openai_answer.Said(content=_reply.content), finish_reason="stop")
                ],
                usage=openai_answer.Usage(prompt_tokens=31, completion_tokens=9, total_tokens=40),
            ),
            openai_answer.Chunk(
                id=f"chatcmpl-{GENERATION_ID}",
                created=1769860800,
                model=MODEL,
                choices=[
                    openai_answer.ChunkChoice(delta=openai_answer.Delta(content="Air scatters "), finish_reason=None)
                ],
            ),
            Stopped(stopped=True, generation_id=GENERATION_ID, message_id=REPLY_ID),
            events.StatusEvent("queued", 1000, 1),
            events.ContentDelta("Air scatters "),
            events.ThinkingDelta("The question is about light."),
            events.MessageComplete(
                message_id=REPLY_ID,
                model=MODEL,
                eval_count=9,
                prompt_eval_count=31,
                done_reason="stop",
                status="complete",
                stats=_stats,
                context_window=_window,
            ),
            _error,
            events.Done(session_id=SESSION_ID, generation_id=GENERATION_ID, status="complete"),
        )
    },
}
_DETAILS: dict[str, dict[str, Any]] = {
    "invalid_json": {"reason": "it is cut short"},
    "validation_error": {"path": "$.options.temperature"},
    "unsupported_media_type": {"content_type": "text/plain"},
    "payload_too_large": {"limit_bytes": 33554432},
    "method_not_allowed": {"allow": "GET, HEAD"},
    "misdirected_host": {"host": "mochi.example.org"},
    "forbidden_origin": {"origin": "https://example.org"},
    "session_not_found": {"session_id": SESSION_ID},
    "session_damaged": {"session_id": SESSION_ID, "reason": "it is not JSON, or cut short"},
    "session_exists": {"session_id": SESSION_ID},
    "session_busy": {"session_id": SESSION_ID, "generation_id": GENERATION_ID},
    "message_not_found": {"message_id": REPLY_ID},
    "prompt_not_found": {"filename": "brief.md"},
    "prompt_exists": {"filename": "brief.md"},
    "image_not_found": {"image": "sha256:" + "0f" * 32},
    "model_not_found": {"model": "llama9", "available": [MODEL]},
    "invalid_message_index": {"index": 7, "message_count": 3},
    "capability_missing": {"model": MODEL, "capability": "vision"},
    "context_overflow": {"estimated_tokens": 140000, "window": 131072, "model_limit": 131072, "message_index": 1},
    "revision_conflict": {"session_id": SESSION_ID, "revision": "9b1f0c5de2a37c44"},
    "no_generation": {"session_id": SESSION_ID},
    "ollama_unreachable": _error.details,
    "ollama_rejected": {"ollama": "invalid format", "ollama_status": 400},
    "ollama_error": {"ollama": "unexpected EOF"},
    "ollama_timeout": {"limit_seconds": 300},
    "storage_unavailable": {"reason": "EROFS"},
}


def as_json(value: msgspec.Struct) -> Any:
    """A value as who reads its JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def sent_example(kind: type[msgspec.Struct]) -> Any:
    """A request's body, with no more in it than it needs. Raises StopIteration where there is none."""
    example = next(one for one in _SENT if type(one) is kind)
    defaults = {f.encode_name: f.default for f in msgspec.structs.fields(kind)}
    told: dict[str, Any] = as_json(example)
    return {name: value for name, value in told.items() if value is not None or defaults[name] is not None}


def told_example(kind: Any) -> Any:
    """An answer's body, or an event's data. Raises KeyError where there is none."""
    return as_json(_TOLD[kind])


def error_event_example(kind: type[MochiError]) -> events.ErrorEvent:
    """What an error of this kind tells; a real one's message is about what happened."""
    words = in_words(kind.__doc__).partition("\n")[0]
    return events.ErrorEvent(
        code=kind.code, message=words, details=_DETAILS.get(kind.code, {}), correlation_id="4f1c-2a"
    )
