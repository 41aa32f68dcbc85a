"""What a reply is made from: what is sent of a history, with which options, in which window."""

from typing import Any

import msgspec

from mochi_server.chat.admission import RELOADING, Load
from mochi_server.chat.generation import OnDisconnect
from mochi_server.domain.context_window import (
    USUAL_WINDOW,
    Choice,
    Known,
    after_refusal,
    choose,
    fits,
    with_fixed_window,
)
from mochi_server.domain.history import newest_that_fit, newest_turns
from mochi_server.domain.images import Image
from mochi_server.domain.messages import AssistantMessage, Context, Message, SystemMessage
from mochi_server.domain.options import OptionValues
from mochi_server.domain.session import HistoryLimit, Session
from mochi_server.domain.tokens import Costs, Estimate, measured, path_tokens
from mochi_server.errors import EmptyHistory
from mochi_server.ollama.catalog import full_name
from mochi_server.ollama.wire import ChatRequest, Format, Think, wire_element

WARY = 4
"""After a refusal a token may be as little as one character."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks a session for: to answer `message`, or the `added` messages; with neither of the two, to
    answer the last user message anew.

    `images` are those that come with either. `model` and `system` stand in for the session's own in this turn. `tools`
    are definitions as Ollama takes them.
    """

    message: str | None = None
    images: tuple[Image, ...] = ()
    added: tuple[Message, ...] = ()
    model: str | None = None
    system: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    think: Think | None = None
    options: OptionValues = {}
    format: Format | None = None
    keep_alive: str | float | int | None = None
    on_disconnect: OnDisconnect = "cancel"
    history_limit: HistoryLimit = None


def turned_to(session: Session, ask: Ask) -> Session:
    """The session as this turn sees it: with the model and the system prompt that were asked for. Not to be saved."""
    metadata, system = session.metadata, session.system
    if ask.model is not None:
        metadata = msgspec.structs.replace(metadata, model=ask.model)
    if ask.system is not None:
        system = SystemMessage(content=ask.system, message_id="", timestamp="")
    return msgspec.structs.replace(session, metadata=metadata, system=system)


def question_of(session: Session, ask: Ask) -> Message | None:
    """What of a session is to be answered, which is as it was asked; None where nothing is."""
    return session.head if ask.added else session.last_user()


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """How it is sent: in which window, and so many of the newest messages, the system prompt not counted."""

    choice: Choice
    messages: int


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What the next reply of a session will meet, in tokens: the window (None: not known), and what is said already."""

    window: int | None
    fixed: bool
    estimated_tokens: int


def outlook(session: Session, known: Known, factor: float | None) -> Outlook:
    """What the next message of a session adds to, as things are."""
    metadata, path = session.metadata, session.path
    fixed = _window(with_fixed_window(metadata.options or {}, metadata.context_window_config).get("num_ctx"))
    window = known.in_force if fixed is None else min(fixed, known.limit or fixed)
    costs = Costs(session.system, path, measured(session.system, path, metadata.model), factor)
    messages = len(path)
    if isinstance(metadata.history_limit, int):
        messages = newest_turns(path, metadata.history_limit)
    elif metadata.history_limit == "fit" and window is not None:
        messages = newest_that_fit(path, lambda most: fits(costs.newest(most), window))
    return Outlook(window=window, fixed=fixed is not None, estimated_tokens=costs.newest(messages).likely)


class Prompt:
    """The history of a session up to what is to be answered, and what a client and the session want of the reply.

    `factor` is what is known of the model's tokens from elsewhere. Raises EmptyHistory.
    """

    def __init__(self, session: Session, ask: Ask, factor: float | None) -> None:
        question = question_of(session, ask)
        if question is None:
            raise EmptyHistory("There is no user message to answer. Send one in `message`.")
        metadata = session.metadata
        config = metadata.context_window_config or {}
        self.question_id = question.message_id
        self.model = metadata.model
        self.has_images = session.has_images
        """Whether there may be images among what is sent."""
        self._ask = ask
        self._system = session.system
        self._path = session.taken_back_to(question.message_id).path
        self._elements = session.path_elements
        # Here, in a thread, for a long history; a short one is encoded by who sends it, and not held meanwhile.
        self._elements.of(self._path, wire_element, keep=True)
        self._options = with_fixed_window({**(metadata.options or {}), **ask.options}, config)
        self._fixed = _window(self._options.get("num_ctx"))
        self._limit = ask.history_limit if ask.history_limit is not None else metadata.history_limit
        self._growing = config.get("dynamic_enabled") is not False
        tokens = path_tokens(session.path_elements, self._path)
        found = measured(self._system, self._path, self.model, tokens)
        self._costs = Costs(self._system, self._path, found, factor, _told(ask.tools), tokens)
        self._guess = next(filter(None, (_window_of(m, self.model) for m in reversed(self._path))), USUAL_WINDOW)
        self._most = newest_turns(self._path, self._limit) if isinstance(self._limit, int) else len(self._path)

    @property
    def question_index(self) -> int:
        """The number that clients know the question under."""
        return len(self._path) - (self._system is None)

    def estimate(self, sending: Sending | None = None) -> Estimate:
        """The tokens of what is sent; of all that may be."""
        return self._costs.newest(self._most if sending is None else sending.messages)

    def plain(self, sending: Sending) -> float:
        """The same, uncorrected."""
        return self._costs.plain(sending.messages)

    def sending(self, known: Known) -> Sending:
        """What to send, as things are."""
        if self._limit != "fit":
            return self._chosen(known, self._most)
        # Where nobody knows what is loaded, the window of the reply before is the best guess.
        window = self._fixed or known.in_force or self._guess
        sending = self._chosen(known, self._fitting(window))
        if (larger := sending.choice.window or 0) > window:
            # Its newest turn alone needed a larger one: then there is room for more.
            return Sending(choice=sending.choice, messages=self._fitting(larger))
        return sending

    def after_refusal(self, refused: Sending, in_force: int | None, limit: int | None) -> Sending | None:
        """What to send when Ollama has refused that as too long, in this window; None where nothing is left to try."""
        window, estimate = in_force or refused.choice.window, self.estimate(refused)
        if self._limit == "fit" and window is not None:
            fewer = self._fitting(window // WARY)
            if fewer < refused.messages:
                return Sending(choice=refused.choice, messages=fewer)
        choice = after_refusal(estimate, refused.choice, in_force, limit, growing=self._growing)
        if choice is None:
            return None
        messages = refused.messages
        if self._limit == "fit" and window is not None and choice.window is not None:
            # As much too low as it was for the window that it was refused in, and some more.
            messages = max(messages, self._fitting(choice.window * estimate.likely // (2 * window)))
        return Sending(choice=choice, messages=messages)

    def load(self, sending: Sending) -> Load:
        """What Ollama must have loaded for it."""
        return Load(full_name(self.model), sending.choice.num_ctx, tuple(map(self._options.get, RELOADING)))

    def request(self, sending: Sending) -> ChatRequest:
        """The request for it."""
        elements = self._elements.of(self._path, wire_element)
        if sending.messages < len(self._path):
            elements = tuple(map(wire_element, self._path[len(self._path) - sending.messages :]))
        if self._system is not None:
            elements = (wire_element(self._system), *elements)
        return ChatRequest(
            model=self.model,
            messages=elements,
            truncate=False,
            options=self.options(sending) or None,
            think=self._ask.think,
            format=self._ask.format,
            tools=list(self._ask.tools) or None,
            keep_alive=self._ask.keep_alive,
        )

    def sent(self, sending: Sending) -> tuple[Message, ...]:
        """The messages of that request."""
        system = () if self._system is None else (self._system,)
        return (*system, *self._path[len(self._path) - sending.messages :])

    def options(self, sending: Sending | None = None) -> OptionValues:
        """The options in effect, with the `num_ctx` that was chosen for it."""
        num_ctx = sending.choice.num_ctx if sending else None
        return self._options if num_ctx is None else {**self._options, "num_ctx": num_ctx}

    def context(self, sending: Sending | None, window: int | None) -> Context:
        """What the reply is to remember of it; `window` is the one in force."""
        messages = self._most if sending is None else sending.messages
        chosen = sending is not None and not sending.choice.fixed and sending.choice.num_ctx is not None
        return Context(
            window=window,
            messages_sent=messages + (self._system is not None),
            messages_left_out=len(self._path) - messages,
            reason="dynamic" if chosen else msgspec.UNSET,
        )

    def _chosen(self, known: Known, messages: int) -> Sending:
        choice = choose(self._costs.newest(messages), known, fixed=self._fixed, growing=self._growing)
        return Sending(choice=choice, messages=messages)

    def _fitting(self, window: int) -> int:
        return newest_that_fit(self._path, lambda messages: fits(self._costs.newest(messages), window))


def _told(tools: tuple[dict[str, Any], ...]) -> str:
    """Definitions of tools as a model is told them, more or less."""
    return msgspec.json.encode(tools).decode() if tools else ""


def _window(option: object) -> int | None:
    """A `num_ctx`. What a hand wrote may be anything: Ollama says what is wrong with it."""
    return option if isinstance(option, int) and not isinstance(option, bool) and option > 0 else None


def _window_of(message: Message, model: str) -> int | None:
    """The window of a reply of this model, as far as that is known."""
    if isinstance(message, AssistantMessage) and message.model == model and message.context is not None:
        return message.context.window
    return None
