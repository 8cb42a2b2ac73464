"""How far a search for roots is: of each pass, what it counts, how many are done, and of how many.

The passes follow each other, and each begins anew.
"""

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[str, int, int], None]
"""Takes what a pass counts, the number done and the number that there is."""
