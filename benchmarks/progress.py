"""How far it is, on standard error, so that standard output has the figures alone."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

Advance = Callable[[int], object]
"""Takes how many more steps are done."""


@contextlib.contextmanager
def bar(what: str, steps: int) -> Iterator[Advance]:
    """A bar of so many steps; it is left full at the end."""
    layout = "{desc:24} {percentage:3.0f}% {bar} {elapsed}, {remaining} left"
    with tqdm(total=steps, desc=what, file=sys.stderr, bar_format=layout, mininterval=0.5, miniters=1) as shown:

        def advance(done: int) -> None:
            shown.update(min(done, steps - shown.n))

        yield advance
