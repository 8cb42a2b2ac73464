"""What can be wrong with a probe."""

from crosswalk.walker.errors import CrosswalkError

__all__ = ["ProbeError"]


class ProbeError(CrosswalkError):
    """The emulator did what no access should lead to, so that there is no outcome to compare."""
