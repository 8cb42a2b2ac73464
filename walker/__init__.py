"""A walker of x86 paging structures, for any physical memory.

memory, context         PhysicalMemory, Segments, SparseWords; PagingContext, PagingMode
one access              translate, walk; Access, AccessType; Outcome and its kinds
many accesses           translate_many; Accesses, Outcomes
all mappings            walk_leaves (columns), mappings, heki_walk; malformed_entries
what can't be followed  unfollowed, Unfollowed
ranges                  coalesce_leaves (columns), coalesce
all physical frames     collective_rights, count_mappings; Aliases, mappings_of;
                        writable_and_executable; RightsTracker
"""

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.aliases import (
    Aliases,
    AliasQuery,
    WritableExecutable,
    mappings_of,
    writable_and_executable,
)
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext, PagingMode, Vendor
from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.frames import Frames, collective_rights, count_mappings
from crosswalk.walker.leaves import Leaves, malformed_entries, walk_leaves
from crosswalk.walker.mappings import (
    HekiArgs,
    Mapping,
    Range,
    Ranges,
    RootedMapping,
    coalesce,
    coalesce_leaves,
    heki_walk,
    mappings,
)
from crosswalk.walker.memory import PhysicalMemory, Segments, SparseWords
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.rights import Rights
from crosswalk.walker.tracker import RightsTracker
from crosswalk.walker.translate import Step, StepKind, Walk, translate, walk
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = [
    "Access",
    "AccessType",
    "Accesses",
    "AliasQuery",
    "Aliases",
    "BadInput",
    "CrosswalkError",
    "ErrorCode",
    "Frames",
    "GeneralProtection",
    "HekiArgs",
    "Kind",
    "Leaves",
    "LimitExceeded",
    "Mapping",
    "Outcome",
    "Outcomes",
    "PageFault",
    "PagingContext",
    "PagingMode",
    "PhysicalMemory",
    "Range",
    "Ranges",
    "Rights",
    "RightsTracker",
    "RootedMapping",
    "Segments",
    "SparseWords",
    "Step",
    "StepKind",
    "Translation",
    "Unfollowed",
    "Vendor",
    "Walk",
    "WritableExecutable",
    "coalesce",
    "coalesce_leaves",
    "collective_rights",
    "count_mappings",
    "heki_walk",
    "malformed_entries",
    "mappings",
    "mappings_of",
    "translate",
    "translate_many",
    "unfollowed",
    "walk",
    "walk_leaves",
    "writable_and_executable",
]
