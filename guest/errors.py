"""Errors of a guest: in its sources, in its layout, or in what it does when it runs."""

from crosswalk.walker.errors import CrosswalkError

__all__ = ["AssemblyError", "GuestError", "LayoutError"]


class GuestError(CrosswalkError):
    """The guest can't be built, or didn't do what it should when it ran."""


class AssemblyError(GuestError):
    """A source can't be assembled."""


class LayoutError(GuestError):
    """A memory map can't be laid out: values that don't fit, or things that overlap."""
