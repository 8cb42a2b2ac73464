"""What may be stale: which outcomes an access may have after entries and registers changed.

- `Sequence` of steps on an address space: `Store`, `Invlpg`, `Invpcid`, `MovCr0`, `MovCr3`,
  `MovCr4`, `Wrpkru`, and `Access`es.
- `TlbModel`: the outcomes that each access is allowed, in turn; `Rule`: what narrows them.
- `dump_sequence`, `load_sequence`, `names_sequence`: files of the format crosswalk-sequence/1.
"""

from crosswalk.walker.tlb.caches import Rule
from crosswalk.walker.tlb.model import Option, TlbModel
from crosswalk.walker.tlb.record import (
    SequenceRecord,
    dump_sequence,
    load_sequence,
    names_sequence,
    parse_sequence,
)
from crosswalk.walker.tlb.steps import (
    Halted,
    Invlpg,
    Invpcid,
    MovCr0,
    MovCr3,
    MovCr4,
    Sequence,
    Step,
    Store,
    Wrpkru,
)

__all__ = [
    "Halted",
    "Invlpg",
    "Invpcid",
    "MovCr0",
    "MovCr3",
    "MovCr4",
    "Option",
    "Rule",
    "Sequence",
    "SequenceRecord",
    "Step",
    "Store",
    "TlbModel",
    "Wrpkru",
    "dump_sequence",
    "load_sequence",
    "names_sequence",
    "parse_sequence",
]
