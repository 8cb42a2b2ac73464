"""The permissions that a hypervisor should grant each guest-physical page.

- `Permission`: reading, writing, executing, as in a page list.
- `protect`, `Protection`: the policy, by collective rights; `Use`: what second-level tables tell
  apart; `TableKind`, `inexpressible`: where a kind of table has to grant more. `beyond`: how each
  way of enforcing rights departs from them, for the supervisor and the user apart.
- `encode`, `decode`, `PageEntry`, `MalformedRequest`: the page list of the hypercall.
- `encode_attributes`, `decode_attributes`, `AttributeSet`: KVM's memory attributes.
- `linear_regions`, `summarise`: the aliases that keep pages writable or executable; a summary.
"""

from crosswalk.walker.protection.attributes import (
    AttributeSet,
    decode_attributes,
    encode_attributes,
)
from crosswalk.walker.protection.enforcers import beyond
from crosswalk.walker.protection.pagelist import (
    MalformedRequest,
    PageEntry,
    Permission,
    decode,
    encode,
)
from crosswalk.walker.protection.policy import Protection, TableKind, Use, inexpressible, protect
from crosswalk.walker.protection.regions import linear_regions
from crosswalk.walker.protection.summary import summarise

__all__ = [
    "AttributeSet",
    "MalformedRequest",
    "PageEntry",
    "Permission",
    "Protection",
    "TableKind",
    "Use",
    "beyond",
    "decode",
    "decode_attributes",
    "encode",
    "encode_attributes",
    "inexpressible",
    "linear_regions",
    "protect",
    "summarise",
]
