"""The one exception tree. A fault of the emulated CPU is an answer, never an exception."""

__all__ = ["BadInput", "CrosswalkError", "LimitExceeded"]


class CrosswalkError(Exception):
    """The testbed or its input is broken; the message is one line that a person can act on."""


class BadInput(CrosswalkError):
    """What was given can't be used: a file, an address, a register value, a case."""


class LimitExceeded(CrosswalkError):
    """The work asked for is larger than the stated limit."""
