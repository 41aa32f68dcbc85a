"""Times as the project writes them."""

import re
from datetime import UTC, datetime

_TIMESTAMP = re.compile(r"2[0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z\Z")


def timestamp(moment: datetime) -> str:
    """An aware moment as RFC 3339 in UTC with microseconds: `2026-01-31T09:00:00.000000Z`.

    All timestamps of this form sort as text.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def later(now: str, before: str) -> str:
    """Now, or the timestamp of before where the clock was set back since: what is sorted by it must not move back."""
    return before if _TIMESTAMP.match(before) and before > now else now
