"""Errors that say where they come from, in one line whatever the input holds."""

from collections.abc import Iterator
from contextlib import contextmanager

from crosswalk.walker.errors import CrosswalkError

__all__ = ["errors_named", "one_line"]

_LONGEST = 200


def one_line(text: str) -> str:
    """Return `text` fit for an error: control characters escaped, at most 200 characters."""
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Put `name` in front of the message of every `CrosswalkError` raised inside."""
    try:
        yield
    except CrosswalkError as error:
        raise type(error)(f"{one_line(name)}: {error}") from error
