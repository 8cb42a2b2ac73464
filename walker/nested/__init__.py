"""Translation in two dimensions: guest-physical addresses are translated once more by a host.

AMD's nested paging (AMD APM vol. 2) and Intel's EPT (Intel SDM vol. 3C): one walk, two formats.

- `NestedContext`: the registers of the guest, and how the host's tables are read: a
  `PagingContext` of AMD's nested tables, or an `EptContext`.
- `NestedPageFault`: #VMEXIT(NPF), with `NestedError` the bits of EXITINFO1; `EptViolation`, with
  `Qualification` the bits of its exit qualification; `EptMisconfiguration`.
- `translate_nested`: one translation; `nested_outcomes`: all outcomes that a manual leaves to the
  processor; `walk_nested`: the entries used, a `NestedWalk` of `GpaWalk`s.
- `EptEntry`: the bits of an EPT entry; `crosswalk.walker.nested.ept` has the rest of the format.
- `NestedTables`: nested tables, or an EPT, built and updated, range by range; `tables_image`: in
  just as many frames as they need.
- `EptTables`, `NptTables`: an EPT, or nested tables, as a context for `crosswalk.walker.mappings`
  and `collective_rights`, which list all that they map.
"""

from crosswalk.walker.nested.context import EptCapability, EptContext, NestedContext
from crosswalk.walker.nested.ept import EptEntry
from crosswalk.walker.nested.image import tables_image
from crosswalk.walker.nested.outcome import (
    EptMisconfiguration,
    EptViolation,
    NestedError,
    NestedOutcome,
    NestedPageFault,
    Qualification,
    nested_error_names,
    qualification_names,
)
from crosswalk.walker.nested.second_level import EptTables, NptTables
from crosswalk.walker.nested.tables import MemoryFull, NestedTables
from crosswalk.walker.nested.translate import (
    GpaWalk,
    NestedWalk,
    nested_outcomes,
    translate_nested,
    walk_nested,
)

__all__ = [
    "EptCapability",
    "EptContext",
    "EptEntry",
    "EptMisconfiguration",
    "EptTables",
    "EptViolation",
    "GpaWalk",
    "MemoryFull",
    "NestedContext",
    "NestedError",
    "NestedOutcome",
    "NestedPageFault",
    "NestedTables",
    "NestedWalk",
    "NptTables",
    "Qualification",
    "nested_error_names",
    "nested_outcomes",
    "qualification_names",
    "tables_image",
    "translate_nested",
    "walk_nested",
]
