"""Nested paging (AMD APM vol. 2): guest-physical addresses are translated once more.

- `NestedContext`: the registers of guest and host; `NestedPageFault`: #VMEXIT(NPF);
  `NestedError`, `nested_error_names`: the bits of EXITINFO1.
- `translate_nested`: one translation in two dimensions; `walk_nested`: the entries it uses, a
  `NestedWalk` of `GpaWalk`s.
- `NestedTables`: nested tables built and updated, range by range.
"""

from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import (
    NestedError,
    NestedOutcome,
    NestedPageFault,
    nested_error_names,
)
from crosswalk.walker.nested.tables import MemoryFull, NestedTables
from crosswalk.walker.nested.translate import GpaWalk, NestedWalk, translate_nested, walk_nested

__all__ = [
    "GpaWalk",
    "MemoryFull",
    "NestedContext",
    "NestedError",
    "NestedOutcome",
    "NestedPageFault",
    "NestedTables",
    "NestedWalk",
    "nested_error_names",
    "translate_nested",
    "walk_nested",
]
