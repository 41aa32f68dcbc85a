"""The session's tree: whatever is done to it, no message is lost and the active path is a path."""

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mochi_server.domain.messages import AssistantMessage, Message, Status, SystemMessage, UserMessage
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import decode, encode, sealed
from mochi_server.errors import InvalidMessageIndex, MessageNotFound
from tests.domain.made_up import SOME, TEXT
from tests.domain.talk import at, conversation, ids, new_session, reply, system, user

STATUSES: st.SearchStrategy[Status] = st.sampled_from(["complete", "interrupted"])
INDEXES = st.integers(-2, 12)


class Talking(RuleBasedStateMachine):
    """A person, a model and a hand on every button, over one session."""

    def __init__(self) -> None:
        super().__init__()
        self.session = new_session()
        self.ever: dict[str, Message] = {}
        self.second = 0

    def now(self) -> str:
        self.second += 1
        # Two things may happen in one tick of a clock.
        return at(self.second // 2)

    def name(self) -> str:
        return f"{len(self.ever):010x}"

    def become(self, session: Session) -> None:
        self.session = session
        for message in (*session.messages, *session.detached):
            self.ever.setdefault(message.message_id, message)

    @rule(content=TEXT)
    def say(self, content: str) -> None:
        name, before = self.name(), ids(self.session.path)
        message = UserMessage(content=content, message_id=name, timestamp=self.now())
        self.become(self.session.append(message, message.timestamp))
        assert ids(self.session.path) == [*before, name]

    @rule(content=TEXT, status=STATUSES)
    def answer_the_last_question(self, content: str, status: Status) -> None:
        asked = self.session.last_user()
        if asked is not None:
            self.answer(asked, content, status)
            assert self.session.path[-2:] == (asked, self.ever[self.session.path[-1].message_id])

    @rule(data=st.data(), content=TEXT, status=STATUSES)
    def answer_any_question_ever_asked(self, data: st.DataObject, content: str, status: Status) -> None:
        asked = [m for m in self.ever.values() if isinstance(m, UserMessage)]
        if asked:
            self.answer(data.draw(st.sampled_from(asked)), content, status)

    def answer(self, asked: UserMessage, content: str, status: Status) -> None:
        name, now, path = self.name(), self.now(), ids(self.session.path)
        said = AssistantMessage(content=content, message_id=name, timestamp=now, status=status)
        shown = self.session.taken_back_to(asked.message_id)
        self.become(self.session.answered(asked.message_id, said, now))
        if asked.message_id in path:
            assert ids(self.session.path) == [*ids(shown.path), name]
            assert ids(shown.path) == path[: path.index(asked.message_id) + 1]
        else:
            assert ids(self.session.path) == ids(shown.path) == path
            assert name in ids(self.session.detached)
        assert self.ever[name].parent_id == asked.message_id

    @rule(index=INDEXES, content=TEXT)
    def edit(self, index: int, content: str) -> None:
        name, before = self.name(), self.session
        if 0 <= index < len(before.messages) and isinstance(before.messages[index], UserMessage):
            self.become(before.edit(index, content, name, self.now()))
            assert ids(self.session.messages) == [*ids(before.messages[:index]), name]
            assert self.session.messages[index].content == content
        else:
            self.refused(InvalidMessageIndex, lambda: before.edit(index, content, name, self.now()))

    @rule(index=INDEXES)
    def truncate(self, index: int) -> None:
        before = self.session
        if 0 <= index < len(before.messages) and not isinstance(before.messages[index], SystemMessage):
            self.become(before.truncate(index, self.now()))
            assert ids(self.session.messages) == ids(before.messages[:index])
        else:
            self.refused(InvalidMessageIndex, lambda: before.truncate(index, self.now()))

    @rule(data=st.data())
    def go_to(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*self.ever, "nowhere"]))
        if name in ids(self.session.tree()):
            self.become(self.session.with_head(name, self.now()))
            assert name in ids(self.session.path)
            assert ids(self.session.path)[-1] in newest_leaves(self.session.tree(), name)
        else:
            self.refused(MessageNotFound, lambda: self.session.with_head(name, self.now()))

    @rule(content=st.none() | TEXT)
    def set_the_system_prompt(self, content: str | None) -> None:
        now, path = self.now(), self.session.path
        prompt = None if content is None else SystemMessage(content=content, message_id=self.name(), timestamp=now)
        self.become(self.session.with_system(prompt, now))
        assert (self.session.system, self.session.path) == (prompt, path)

    @rule()
    def restart(self) -> None:
        self.session = decode(encode(self.session))

    def refused(self, kind: type[Exception], act: Callable[[], Session]) -> None:
        before = encode(self.session)
        with pytest.raises(kind):
            act()
        assert encode(self.session) == before

    @invariant()
    def no_message_that_ever_was_is_gone_or_changed(self) -> None:
        kept = (*self.session.messages, *self.session.detached)
        assert Counter(ids(kept)) == Counter(list(self.ever))
        assert {m.message_id: m for m in kept} == self.ever

    @invariant()
    def the_active_path_is_a_path(self) -> None:
        parents = [m.parent_id for m in self.session.path]
        assert parents == [None, *ids(self.session.path)][: len(parents)]

    @invariant()
    def the_count_is_that_of_the_messages_shown(self) -> None:
        assert self.session.metadata.message_count == len(self.session.messages)

    @invariant()
    def the_tree_has_all_but_system_prompts_once(self) -> None:
        talk = [name for name, message in self.ever.items() if not isinstance(message, SystemMessage)]
        assert Counter(ids(self.session.tree())) == Counter(talk)

    @invariant()
    def its_file_holds_it_all(self) -> None:
        assert decode(encode(self.session)) == sealed(self.session)[0]


def newest_leaves(tree: Iterable[Message], top: str) -> set[str]:
    """The leaves at or below `top` that share the newest timestamp."""
    children: dict[str | None, list[Message]] = {}
    for message in tree:
        children.setdefault(message.parent_id, []).append(message)
    below = [message for message in tree if message.message_id == top]
    for message in below:
        below.extend(children.get(message.message_id, ()))
    leaves = [message for message in below if message.message_id not in children]
    newest = max(message.timestamp for message in leaves)
    return {message.message_id for message in leaves if message.timestamp == newest}


def test_no_sequence_of_operations_loses_a_message_or_breaks_the_path() -> None:
    run_state_machine_as_test(Talking, settings=settings(SOME, stateful_step_count=40))


def test_an_edit_stands_in_the_old_messages_place_and_keeps_the_old_branch() -> None:
    session = conversation("q1", "a1", "q2", "a2").edit(2, "better", "q2b", at(9))
    assert ids(session.path) == ["q1", "a1", "q2b"]
    assert session.path[2].parent_id == "a1"
    assert ids(session.detached) == ["q2", "a2"]
    assert [m.content for m in session.detached] == ["q2", "a2"]


def test_an_edited_message_keeps_its_images() -> None:
    asked = UserMessage(content="see", message_id="q", timestamp=at(0), images=("sha256:1",))
    edited = new_session().append(asked, at(0)).edit(0, "look", "q2", at(1)).path[0]
    assert isinstance(edited, UserMessage)
    assert edited.images == ("sha256:1",)


def test_a_head_on_another_branch_goes_on_to_its_newest_leaf() -> None:
    session = conversation("q1", "a1", "q2", "a2").edit(0, "else", "q1b", at(9))
    assert ids(session.path) == ["q1b"]
    assert ids(session.with_head("q1", at(10)).path) == ["q1", "a1", "q2", "a2"]


def test_of_several_leaves_the_one_with_the_newest_timestamp_becomes_the_head() -> None:
    session = conversation("q").answered("q", reply("late", second=8), at(8))
    session = session.answered("q", reply("early", second=3), at(9))
    assert ids(session.with_head("q", at(10)).path) == ["q", "late"]


def test_a_head_that_is_a_leaf_is_the_end_of_the_path() -> None:
    session = conversation("q", "a").answered("q", reply("b", second=5), at(5))
    assert ids(session.with_head("a", at(6)).path) == ["q", "a"]


def test_a_replaced_system_prompt_is_no_head() -> None:
    session = conversation("q").with_system(system("old"), at(1)).with_system(system("new"), at(2))
    with pytest.raises(MessageNotFound) as refusal:
        session.with_head("old", at(3))
    assert refusal.value.details == {"message_id": "old"}


def test_a_reply_whose_question_left_the_path_is_kept_off_the_path() -> None:
    session = conversation("q", "a").edit(0, "else", "q2", at(3)).answered("q", reply("late"), at(4))
    assert ids(session.path) == ["q2"]
    assert ids(session.detached) == ["q", "a", "late"]
    assert session.detached[-1].parent_id == "q"


def test_a_regenerated_reply_takes_the_old_ones_place() -> None:
    session = conversation("q1", "a1", "q2", "a2").answered("q2", reply("new"), at(9))
    assert ids(session.path) == ["q1", "a1", "q2", "new"]
    assert ids(session.detached) == ["a2"]


@pytest.mark.parametrize("asked", ["a2", "gone"], ids=["its head", "a message off the path"])
def test_a_view_taken_back_to_its_end_or_to_no_message_of_its_own_is_the_session(asked: str) -> None:
    session = conversation("q1", "a1", "q2", "a2")
    assert session.taken_back_to(asked) is session


def test_a_view_taken_back_is_no_change_in_time() -> None:
    session = conversation("q1", "a1", "q2", "a2")
    assert session.taken_back_to("q2").metadata.updated_at == session.metadata.updated_at


def test_a_replaced_system_prompt_is_kept_detached_and_moves_no_branch() -> None:
    session = conversation("q", "a").with_system(system("one"), at(3)).with_system(system("two"), at(4))
    assert ids(session.messages) == ["two", "q", "a"]
    assert session.path[0].parent_id is None
    assert ids(session.detached) == ["one"]
    assert session.metadata.message_count == 3
    assert ids(session.tree()) == ["q", "a"]


def test_a_removed_system_prompt_is_kept_detached() -> None:
    session = conversation("q").with_system(system("one"), at(3)).with_system(None, at(4))
    assert ids(session.messages) == ["q"]
    assert ids(session.detached) == ["one"]
    assert session.metadata.message_count == 1


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_an_index_out_of_range_is_refused_with_the_range(index: int) -> None:
    session = conversation("q", "a")
    acts: list[Callable[[], Session]] = [
        lambda: session.truncate(index, at(2)),
        lambda: session.edit(index, "new", "n", at(2)),
    ]
    for act in acts:
        with pytest.raises(InvalidMessageIndex, match="0 to 1") as refusal:
            act()
        assert refusal.value.details == {"index": index, "message_count": 2}


def test_an_index_into_a_session_without_messages_is_refused() -> None:
    with pytest.raises(InvalidMessageIndex, match="no messages"):
        new_session().truncate(0, at(1))


def test_a_reply_cannot_be_edited() -> None:
    with pytest.raises(InvalidMessageIndex, match="assistant"):
        conversation("q", "a").edit(1, "new", "n", at(2))


def test_the_system_prompt_is_index_0_and_neither_edited_nor_truncated() -> None:
    session = conversation("q", "a").with_system(system("one"), at(2))
    acts: list[Callable[[], Session]] = [
        lambda: session.truncate(0, at(3)),
        lambda: session.edit(0, "new", "n", at(3)),
    ]
    for act in acts:
        with pytest.raises(InvalidMessageIndex, match="system prompt"):
            act()
    assert ids(session.truncate(2, at(3)).messages) == ["one", "q"]
    assert ids(session.edit(1, "new", "n", at(3)).messages) == ["one", "n"]


def test_metadata_changes_leave_the_messages_alone() -> None:
    before = conversation("q", "a").with_system(system("one"), at(2))
    after = before.with_metadata(at(7), title="A title", model="other")
    assert (after.metadata.title, after.metadata.model, after.metadata.updated_at) == ("A title", "other", at(7))
    assert (after.messages, after.detached) == (before.messages, before.detached)


@pytest.mark.parametrize(
    ("said", "preview"),
    [
        ((), ""),
        (("hello",), "hello"),
        (("hello", "how are you?"), "how are you?"),
        (("hello", ""), "hello"),
        (("  two\r\nlines\tand\u2028more\x85here \n",), "two lines and more here"),
        (("x" * 500,), "x" * 120),
        (("x" * 119 + " tail",), "x" * 119),
        (("👩\u200d🚀" * 100,), ("👩\u200d🚀" * 100)[:120]),
    ],
)
def test_the_preview_is_one_line_of_up_to_120_characters(said: tuple[str, ...], preview: str) -> None:
    session = new_session()
    for number, content in enumerate(said):
        make = reply if number % 2 else user
        session = session.append(make(str(number), content), at(number))
    assert session.preview() == preview


def test_the_preview_shows_no_system_prompt() -> None:
    assert new_session().with_system(system("be kind"), at(1)).preview() == ""
