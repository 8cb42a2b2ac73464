"""Who is asked the combinations of the matrix, and which of them."""

import msgspec

__all__ = ["EMULATED", "Asking"]


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The judge that is asked, by its name on the command line; None is the emulated CPU.

    `version` is what the judge says of itself. With `portable`, tables and pages are where machines
    have RAM; with `pairs` not all combinations are asked (`Section`).
    """

    judge: str | None = None
    version: str = ""
    portable: bool = False
    pairs: bool = False


EMULATED = Asking()
"""The emulated CPU is asked all combinations."""
