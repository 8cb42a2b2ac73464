"""A slot of the root table, lent in place: the word in it, put there for a run and taken back.

The emulated CPU is then under the very CR3 under test. An access that would use the lent word, or
lead to it, is made with another slot lent, or under a copy of the root.
"""

from collections.abc import Sequence

__all__ = ["CR3_UNDER_TEST", "REASONS", "Lending"]

CR3_UNDER_TEST = "CR3 under test"
"""Under the CR3 under test, bits and all, with a slot of its root table lent in place."""

REASONS = (
    "copy of the root: CR3's high bits",
    "copy of the root: the access meets both lent slots",
)
"""Why other accesses are made under a copy of the root.

The emulated CPU's 5-level walk takes CR3's bits from 52 up for an address; and a walk through a
recursive table may use any word of the root, and end there.
"""


class Lending:
    """The entries of the root table that are lent in place, of a space of tables.

    `view` has single entries; `places` are the indices there of the slots that may be lent in
    place, and `entry` is what is put into one of them.
    """

    def __init__(self, view: memoryview, places: Sequence[int], entry: int) -> None:
        self._view, self._places, self._entry = view, places, entry
        self._now: int | None = None
        self._before = 0

    def select(self, number: int | None) -> None:
        """Lend the slot of this number; for any other number, or None, have all as under test."""
        wanted = number if number is not None and number < len(self._places) else None
        if wanted == self._now:
            return
        if self._now is not None:
            at = self._places[self._now]
            # Changed by an access, it is left as it is, for the comparison with what was to tell.
            if self._view[at] == self._entry:
                self._view[at] = self._before
        self._now = wanted
        if wanted is not None:
            at = self._places[wanted]
            self._before = self._view[at]
            self._view[at] = self._entry
