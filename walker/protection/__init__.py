"""The permissions that a hypervisor should grant each guest-physical page.

- `Permission`: reading, writing, executing, as in a page list.
- `protect`, `Protection`: the policy, by collective rights; `TableKind`, `inexpressible`: where a
  kind of second-level table has to grant more.
- `encode`, `decode`, `PageEntry`, `MalformedRequest`: the page list of the hypercall.
- `linear_regions`, `summarise`: the aliases that keep pages writable or executable; a summary.
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
