"""Times as the project writes them."""

from datetime import UTC, datetime


def timestamp(moment: datetime) -> str:
    """An aware moment as RFC 3339 in UTC with microseconds: `2026-01-31T09:00:00.000000Z`.

    All timestamps of this form sort as text.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
