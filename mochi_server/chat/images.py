"""The images of a history: whether they can be sent, and their bytes for Ollama.

Ollama ignores images in silence where the model cannot see them. So that is asked here, and an image that is gone is
an error: no reply is made as if it had never been there.
"""

from collections.abc import Callable, Collection, Sequence

import msgspec

from mochi_server.chat.prompt import Ask, question_of
from mochi_server.domain.history import newest_turns
from mochi_server.domain.messages import Message, UserMessage
from mochi_server.domain.session import Session
from mochi_server.errors import CapabilityMissing, ImageNotFound
from mochi_server.ollama.catalog import Catalog
from mochi_server.ollama.wire import ChatRequest, wire_image, wire_message
from mochi_server.store.files import storage_error
from mochi_server.store.images import Images
from mochi_server.store.sessions import SessionStore
from mochi_server.store.threads import Threads

Shown = dict[int, UserMessage]
"""Messages with images, by the index that clients know them by."""

ReadImage = Callable[[str], bytes | None]
"""Gives the bytes behind a reference, None where they are not there. May block, and raise OSError."""


class SightUnknown(Exception):
    """A history has images, and whether its model sees them is to be found out before anything is done with it."""

    def __init__(self, model: str, shown: Shown) -> None:
        super().__init__(model)
        self.model = model
        self.shown = shown


def to_be_shown(session: Session, ask: Ask) -> Shown:
    """The messages with images that the answer to what is asked is made from."""
    question = question_of(session, ask)
    if question is None or not session.has_images:
        return {}
    path = session.taken_back_to(question.message_id).path
    limit = ask.history_limit if ask.history_limit is not None else session.metadata.history_limit
    sent = newest_turns(path, limit) if isinstance(limit, int) else len(path)
    left_out, first = len(path) - sent, int(session.system is not None)
    return {first + n: m for n, m in enumerate(path) if n >= left_out and isinstance(m, UserMessage) and m.images}


async def check_shown(
    shown: Shown, model: str, catalog: Catalog, store: SessionStore, new: Collection[str] = ()
) -> None:
    """Raise CapabilityMissing where the model cannot see images, and what `check_there` raises; an OSError as ours."""
    await check_sight(shown, model, catalog)
    try:
        await store.threads.run(check_there, shown, store.images, new)
    except OSError as error:
        raise storage_error(error) from None


async def check_sight(shown: Shown, model: str, catalog: Catalog) -> None:
    """Raise CapabilityMissing where the model cannot see images. Ollama is asked where what is known says no."""
    try:
        await catalog.require(model, "vision")
    except CapabilityMissing as error:
        index = next(iter(shown))
        error.details["message_index"] = index
        error.message += f" The first message with images that it would be sent is message {index}."
        raise


def check_there(shown: Shown, images: Images, new: Collection[str] = ()) -> None:
    """Raise ImageNotFound where one of the images is gone; `new` references come with the request. Blocks.

    Raises OSError.
    """
    for index, message in shown.items():
        for reference in message.images or ():
            if reference not in new and not images.has(reference):
                raise _gone(reference, index)


async def with_images(
    request: ChatRequest, messages: Sequence[Message], last_index: int, read: ReadImage, threads: Threads
) -> ChatRequest:
    """The request with the images of its messages, of which the last is the one that clients know by `last_index`.

    Raises ImageNotFound, StorageUnavailable.
    """
    if not any(map(_references, messages)):
        return request
    try:
        return await threads.run(_with_images, request, messages, last_index, read)
    except OSError as error:
        raise storage_error(error) from None


def _with_images(request: ChatRequest, messages: Sequence[Message], last_index: int, read: ReadImage) -> ChatRequest:
    first_index = last_index - len(messages) + 1
    sent = [
        wire_message(message, [_wire_image(read, one, index) for one in _references(message)])
        for index, message in enumerate(messages, first_index)
    ]
    return msgspec.structs.replace(request, messages=sent)


def _references(message: Message) -> tuple[str, ...]:
    return (message.images or ()) if isinstance(message, UserMessage) else ()


def _wire_image(read: ReadImage, reference: str, index: int) -> msgspec.Raw:
    data = read(reference)
    if data is None:
        raise _gone(reference, index)
    return wire_image(data)


def _gone(reference: str, index: int) -> ImageNotFound:
    name = reference[:80]
    return ImageNotFound(
        f"The image {name!r} of message {index} is not there, or is not what it was. Put its file back beside the "
        f"sessions (.mochi/images), or truncate the history from message {index} on.",
        {"image": name, "message_index": index},
    )
