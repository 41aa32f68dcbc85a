"""The events of a running reply in memory: small, since a thousand replies may run, of thousands of events each."""

from collections.abc import Iterator

from mochi_server.domain.events import ContentDelta, Entry, ThinkingDelta, delta, words_json

SEGMENT = 16
"""So many events are packed together. The newest ones are not: they are what listeners ask for."""

_KINDS = {ContentDelta.name: b"c", ThinkingDelta.name: b"t"}
_NAMES = {kind[0]: name for name, kind in _KINDS.items()}
_OTHER = b"o"


class EventLog:
    """Events in the order in which they are shown. Of a delta that is not new its words alone are kept: a tenth."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._recent: list[Entry] = []

    def __len__(self) -> int:
        return len(self._packed) * SEGMENT + len(self._recent)

    def __iter__(self) -> Iterator[Entry]:
        for segment in self._packed:
            yield from _unpacked(segment)
        yield from self._recent

    def extend(self, entries: list[Entry]) -> None:
        """Add events behind the others."""
        self._recent += entries
        while len(self._recent) >= 2 * SEGMENT:
            self._packed.append(_packed(self._recent[:SEGMENT]))
            del self._recent[:SEGMENT]

    def behind(self, seen: int, most: int) -> list[Entry]:
        """Up to so many events behind the first `seen`; none only where there are none."""
        packed = len(self._packed) * SEGMENT
        if seen >= packed:
            return self._recent[seen - packed : seen - packed + most]
        first, last = seen // SEGMENT, (seen + most) // SEGMENT
        entries = [one for segment in self._packed[first : last + 1] for one in _unpacked(segment)]
        if last >= len(self._packed):
            entries += self._recent
        return entries[seen % SEGMENT :][:most]


def _packed(entries: list[Entry]) -> bytes:
    """Each on a line of its own: JSON has none of its own there."""
    return b"\n".join(
        [
            _KINDS[one.name] + words_json(one)
            if one.name in _KINDS
            else b"%b%b %b" % (_OTHER, one.name.encode(), one.data)
            for one in entries
        ]
    )


def _unpacked(segment: bytes) -> list[Entry]:
    return [_entry(line) for line in segment.split(b"\n")]


def _entry(line: bytes) -> Entry:
    name = _NAMES.get(line[0])
    if name is not None:
        return delta(name, line[1:])
    other, _, data = line[1:].partition(b" ")
    return Entry(other.decode(), data)
