"""Errors that say where they come from, in one line whatever the input holds."""

from collections.abc import Iterator
from contextlib import contextmanager

from crosswalk.walker.errors import CrosswalkError

__all__ = ["errors_named", "one_line", "printable"]

_LONGEST = 200


def printable(text: str) -> str:
    """Return foreign text fit for a terminal: control characters and the like are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def one_line(text: str) -> str:
    """Return foreign text fit for an error: `printable`, and cut after 200 characters."""
    return printable(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Put `name` in front of the message of every `CrosswalkError` raised inside.

    One that has it there already, as that of a file which can't be read, stays as it is.
    """
    try:
        yield
    except CrosswalkError as error:
        where = f"{one_line(name)}: "
        if str(error).startswith(where):
            raise
        raise type(error)(f"{where}{error}") from error
