"""Whether what is there is what was acknowledged and shown, or one whole step further where a step was under way."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from mochi_server.store.journal import ENDED, Journals
from tests.crash import found as on_disk
from tests.crash.found import Found
from tests.crash.known import History, Known, Reply, Said, Violation
from tests.crash.talker import Talker, Words
from tests.server import Server


def stopped(folder: Path, known: Iterable[Known], graves: set[str]) -> list[str]:
    """What is wrong in the folder right after a kill: every file is whole, and deleted is deleted."""
    wrong = [str(one) for one in on_disk.sessions(folder) if isinstance(one, Violation)]
    return wrong + _unburied(folder, graves | {one.word for one in known if one.gone})


def started(server: Server, known: list[Known], talker: Talker, graves: set[str]) -> list[str]:
    """What is wrong after the next start. All that is right is learnt: `known` is then what the folder has."""
    folder = server.sessions
    wrong = [f"{name} was left" for name in on_disk.leftovers(folder)]
    wrong += [line for line in server.log.read_text("utf-8", "replace").splitlines() if '"level":"error"' in line]
    by_word: dict[str, Found] = {}
    for one in on_disk.sessions(folder):
        if isinstance(one, Violation):
            wrong.append(str(one))
        elif one.word in by_word:
            wrong.append(f"{one.word} is in {by_word[one.word].session_id} and in {one.session_id}")
        else:
            by_word[one.word] = one
    wrong += [f"{word} came back, or from nowhere" for word in by_word.keys() - {one.word for one in known}]
    for asked in known:
        there = by_word.get(asked.word)
        harm = [*_judged(asked, there, talker), *_resumable(folder, asked, there)]
        wrong += [f"{asked.word}, {asked.session_id or 'without an id'}: {text}" for text in harm]
        if not harm:
            _accept(asked, there, graves)
    wrong += list(_listed(server, by_word))
    return wrong + _unburied(folder, graves)


def _unburied(folder: Path, graves: set[str]) -> list[str]:
    spoken = on_disk.words(folder)
    return [f"{word} is deleted, and stands in {sorted(spoken[word])}" for word in sorted(spoken.keys() & graves)]


def _accept(known: Known, there: Found | None, graves: set[str]) -> None:
    if there is None:
        known.gone = True
        graves.add(known.word)
        return
    known.session_id = there.session_id
    known.learn(there.history, there.revision)
    known.title, known.maybe_title = there.title, None
    known.ids = there.ids
    known.maybe_gone, known.answered = False, None


def _judged(known: Known, there: Found | None, talker: Talker) -> Iterator[str]:
    if there is None:
        if known.there and not (known.gone or known.maybe_gone):
            yield "it was acknowledged, and is not there"
        return
    if known.gone:
        yield "it was deleted, and is there"
        return
    if known.session_id not in {"", there.session_id}:
        yield f"it is {there.session_id}"
    if there.title not in {known.title, known.maybe_title or known.title}:
        yield f"its title is {there.title}, not {known.title} or {known.maybe_title}"
    lost = [name for name, message_id in known.ids.items() if there.ids.get(name) != message_id]
    if lost:
        yield f"messages are lost, or have other ids: {lost}"
    acknowledged = known.reply.history if known.reply and known.reply.begun else known.history
    same = there.history == acknowledged and there.title == known.title
    if same and known.revision not in {None, there.revision}:
        yield f"its revision is {there.revision}, not {known.revision}, though nothing else differs"
    if known.reply is not None:
        yield from _with_reply(known, known.reply, there, talker)
    elif there.history not in {known.history, known.maybe_history or known.history}:
        yield _difference(there.history, known.history)


def _with_reply(known: Known, reply: Reply, there: Found, talker: Talker) -> Iterator[str]:
    """A reply was on its way: what was shown of it is there, and it is at least as long."""
    shown, told = reply.shown(), reply.message_id()
    allowed = [] if any(shown) or told else [reply.history]
    if known.there and not reply.begun:
        allowed.append(known.history)
    if there.history in allowed:
        return
    if there.history in {reply.history, known.history}:
        yield f"nothing of its reply is there, shown was {_short(shown)}"
        return
    saved = there.history.path[-1] if there.history.path else None
    if saved is None or there.history != reply.history.then(saved) or saved.parent != reply.question.name:
        yield _difference(there.history, (allowed or [reply.history])[0]) + f"; shown was {_short(shown)}"
        return
    words = Words(saved.thinking, saved.content)
    stages = talker.beginnings(reply.question.name, saved.name)
    if words not in stages:
        yield f"the reply {_short(words)} was never said"
    elif not all(saved_part.startswith(part) for saved_part, part in zip(words, shown, strict=True)):
        yield f"shown was {_short(shown)}, the reply is {_short(words)}"
    elif told and there.ids[saved.name] != told:
        yield f"the reply {told} is {there.ids[saved.name]}"
    elif saved.ending not in _endings(known, reply, words == stages[-1]):
        yield f"the reply is called {saved.ending}, with {stages.index(words) + 1} of {len(stages)} pieces"


def _endings(known: Known, reply: Reply, whole: bool) -> set[str]:
    for event in reply.events:
        if event.name == "message_complete":
            told = json.loads(event.data)
            return {f"{told['status']} {told['done_reason']}"}
    endings = {"interrupted crashed"}
    if whole:
        endings.add("complete stop")
    if known.maybe_gone:
        endings.add("interrupted stopped")
    return endings


def _resumable(folder: Path, known: Known, there: Found | None) -> Iterator[str]:
    """The journal has every event that was shown of the last reply."""
    reply = known.reply if known.reply and known.reply.events else known.answered
    if there is None or reply is None or (known.reply is not None and reply is not known.reply):
        return
    inner = folder / ".mochi"
    kept = Journals(inner / "journals", inner / "quarantine").kept(there.session_id, ENDED)
    if kept is None or kept.head.generation_id != reply.generation:
        yield f"the journal is of {kept and kept.head.generation_id}, the last reply was {reply.generation}"
        return
    events = [(event.name, event.data) for event in reply.events]
    if [(entry.name, entry.data) for entry in kept.entries[: len(events)]] != events:
        yield f"the journal has not what was shown: {len(kept.entries)} events, {len(events)} were shown"
    if not kept.ended:
        yield "the journal does not end with `done`"


def _listed(server: Server, by_word: dict[str, Found]) -> Iterator[str]:
    """The API says what the folder says."""
    # A search brings the index on disk up to date.
    if server.ok("GET", "/sessions?q=word-")["damaged"]:
        yield "the list has damaged sessions"
    page = server.ok("GET", "/sessions?limit=1000")
    listed = {(one["session_id"], one["title"]) for one in page["sessions"]}
    there = {(one.session_id, one.title) for one in by_word.values()}
    if page["total"] != len(there) or listed != there:
        yield f"the list has {page['total']} sessions, {len(there)} are there; differing: {listed ^ there}"
    for one in by_word.values():
        answer = server.call("GET", f"/sessions/{one.session_id}")
        if answer.status_code != 200:
            yield f"GET {one.session_id}: {answer.status_code} {answer.text[:300]}"
            continue
        if answer.headers["etag"] != f'"{one.revision}"':
            yield f"{one.session_id} has the revision {one.revision}, told is {answer.headers['etag']}"
        if [message["message_id"] for message in answer.json()["messages"]] != one.messages:
            yield f"{one.session_id} has other messages than are told"


def _difference(there: History, wanted: History) -> str:
    have, want = set(there.all()), set(wanted.all())
    return (
        f"its history is another one: path {_names(there.path)}, wanted {_names(wanted.path)}; "
        f"missing {_names(want - have)}, more than wanted {_names(have - want)}; "
        f"system prompt {str(there.system)[:30]!r}, wanted {str(wanted.system)[:30]!r}"
    )


def _names(messages: Iterable[Said]) -> list[str]:
    return [f"{one.name.partition('.')[2]}{f' ({one.ending})' if one.ending else ''}" for one in messages]


def _short(words: Words) -> str:
    return " + ".join(f"{len(part)} characters {part[:40]!r}...{part[-40:]!r}" for part in words if part) or "nothing"
