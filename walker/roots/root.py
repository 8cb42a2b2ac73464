"""A root, and the roots of a memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from crosswalk.walker.context import PagingContext

__all__ = ["STRAY", "Root", "Roots"]

STRAY = "stray"
"""The role of a root that nothing connects with any other, and that nobody names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One root: the table of an address space, in the context to read it in.

    `group` is a number that roots have in common whose upper halves are alike, as those of one
    kernel's address spaces are. `mappings` is the number of its leaves, `user_mappings` of those
    that user mode may access. `source` says who names it: "given", "cpu 0", "case", "header",
    "vmcoreinfo", several with commas; "scan" where only a search of the memory finds it.

    `role` is what could be told of it, "" where nothing tells: "swapper", the kernel's own;
    "process", with a live user half; "pti-user", the root of user mode where the kernel has another
    (page-table isolation); "lazy", loaded by a CPU though its user half is gone; "dead", without
    a user half and loaded by none; "stray", not the best one, found by the search
    alone, and neither in a group nor in a pair with another: of stale tables, or of another
    system's. `pair` is CR3 of the other root of a pair of page-table isolation.
    """

    context: PagingContext
    group: int
    mappings: int
    user_mappings: int
    source: str
    role: str = ""
    pair: int | None = None

    def why(self, count: int) -> str:
        """Return why this is the best of so many roots, in a sentence for people."""
        where = f"root {self.context.cr3:#x}"
        if "vmcoreinfo" in self.source:
            return f"{where}: swapper_pg_dir of VMCOREINFO"
        if self.source != "scan":
            return f"{where}: CR3 by {self.source}"
        what = f"{self.role}, " if self.role else ""
        of = "the only one" if count == 1 else f"the likeliest of {count:,}"
        mapped = "1 mapping" if self.mappings == 1 else f"{self.mappings:,} mappings"
        return f"{where}: {of} that a search of the memory finds ({what}{mapped})"


@dataclass(frozen=True, slots=True)
class Roots(Sequence[Root]):
    """The roots of a memory, best first.

    `remarks` are sentences for people: what is named and isn't a root, what wasn't looked for.
    `unsearched` says why not all memory was searched for roots; "" where it was.
    """

    found: tuple[Root, ...]
    remarks: tuple[str, ...] = ()
    unsearched: str = ""

    @property
    def known(self) -> tuple[Root, ...]:
        """The roots without strays."""
        return tuple(each for each in self.found if each.role != STRAY)

    @property
    def strays(self) -> tuple[Root, ...]:
        """The roots whose role is "stray"."""
        return tuple(each for each in self.found if each.role == STRAY)

    @property
    def why(self) -> str:
        """The best root and why it is that, in a sentence for people; "" where there is none."""
        return self.found[0].why(len(self.found)) if self.found else ""

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, at: int) -> Root: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Root, ...]: ...

    def __getitem__(self, at: int | slice) -> Root | tuple[Root, ...]:
        """Return the root at this place, or those of these places."""
        return self.found[at]

    def __iter__(self) -> Iterator[Root]:
        return iter(self.found)
