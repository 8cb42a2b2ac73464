"""What a hypervisor may grant each guest-physical page.

- `Permission`: reading, writing, executing, as a hypervisor is asked for them.
- `protect`, `Protection`: what to grant, by collective rights; `TableKind`, `inexpressible`:
  what a kind of second-level table can't say.
- `encode`, `decode`, `PageEntry`, `MalformedRequest`: the list that a hypervisor is asked with.
- `linear_regions`, `summarise`: which aliases are in the way; what all of it comes to.
"""

from crosswalk.walker.protection.pagelist import (
    MalformedRequest,
    PageEntry,
    Permission,
    decode,
    encode,
)
from crosswalk.walker.protection.policy import Protection, TableKind, inexpressible, protect
from crosswalk.walker.protection.regions import linear_regions
from crosswalk.walker.protection.summary import summarise

__all__ = [
    "MalformedRequest",
    "PageEntry",
    "Permission",
    "Protection",
    "TableKind",
    "decode",
    "encode",
    "inexpressible",
    "linear_regions",
    "protect",
    "summarise",
]
