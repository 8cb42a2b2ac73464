"""Roots from those that were named or found: counted, grouped, paired, with roles, in order."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from crosswalk.walker.aliases import MAX_QUERIES, Aliases, AliasQuery
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry
from crosswalk.walker.memory import FRAME, WORDS, PhysicalMemory
from crosswalk.walker.roots.counting import count_roots
from crosswalk.walker.roots.groups import kernels_of, pair_of
from crosswalk.walker.roots.named import SCAN, VMCOREINFO, Named
from crosswalk.walker.roots.root import STRAY, Root

__all__ = ["described"]

_SHOWN = 4
_ASKED = 16 * MAX_QUERIES
"""How many roots of a group are asked for their aliases."""
_NEXT = 8
"""Frames behind the kernel's own root that its first tables lie in."""
_ROLES = ("swapper", "process", "lazy", "", "dead", "pti-user", STRAY)
"""Roles by how good a root is to begin with."""


@dataclass(slots=True)
class _Found:
    """A root, and what is known of it so far.

    `rank` says how good its first source is, `key` is the digest of its upper half, `lower` the
    number of leaves of its lower half and `lower_user` of the user's there.
    """

    context: PagingContext
    rank: int
    sources: list[str] = field(default_factory=list)
    key: bytes | None = None
    mappings: int = 0
    user: int = 0
    lower: int = 0
    lower_user: int = 0
    pair: int | None = None
    role: str = ""
    group: int = 0

    @property
    def is_user_of_pair(self) -> bool:
        return self.pair is not None and self.pair < self.context.root

    @property
    def on_cpu(self) -> bool:
        return any(source.startswith("cpu ") for source in self.sources)

    def root(self) -> Root:
        sources = [each for each in self.sources if each != SCAN] or [SCAN]
        shown = sources[:_SHOWN]
        more = ["…"] if len(sources) > _SHOWN else []
        return Root(
            context=self.context,
            group=self.group,
            mappings=self.mappings,
            user_mappings=self.user,
            source=", ".join([*shown, *more]),
            role=self.role,
            pair=self.pair,
        )


def described(memory: PhysicalMemory, named: Iterable[Named]) -> tuple[Root, ...]:
    """Return each root that is named, once, with all that can be told of it, best first.

    `named` come with the best source first; what is named twice has the context of the first.
    """
    found = _distinct(named)
    _fill(memory, found)
    frames = {each.context.root for each in found}
    for each in found:
        each.pair = pair_of(memory, each.context, frames)
    ordered: list[_Found] = []
    for group in sorted(_groups(found), key=_group_order):
        swapper = _swapper(memory, group)
        for each in group:
            each.role = _role(each, group, swapper)
            each.group = len(ordered)
        ordered += group
    ordered.sort(key=_order)
    for stray in _strays(ordered):
        stray.role = STRAY
    ordered.sort(key=_is_stray)
    # Numbered as they are met from the best root on.
    numbers: dict[int, int] = {}
    for each in ordered:
        each.group = numbers.setdefault(each.group, len(numbers))
    return tuple(each.root() for each in ordered)


def _distinct(named: Iterable[Named]) -> list[_Found]:
    found: dict[tuple[str, int], _Found] = {}
    for each in named:
        context = each.context
        known = found.setdefault((context.mode, context.root), _Found(context, each.rank))
        if each.source not in known.sources:
            known.sources.append(each.source)
    return list(found.values())


def _fill(memory: PhysicalMemory, found: list[_Found]) -> None:
    """Fill in counts and digests, for all roots whose contexts differ in CR3 alone together."""
    families = defaultdict(list)
    for each in found:
        families[replace(each.context, cr3=0)].append(each)
    for context, family in families.items():
        roots = np.array([each.context.root for each in family], np.uint64)
        counts = count_roots(memory, context, roots)
        keys = kernels_of(memory, context, roots)
        for at, (each, key) in enumerate(zip(family, keys, strict=True)):
            each.key = key
            each.mappings, each.user = int(counts.total[at]), int(counts.user[at])
            each.lower, each.lower_user = int(counts.lower[at]), int(counts.lower_user[at])


def _groups(found: list[_Found]) -> list[list[_Found]]:
    """Return roots by equal upper halves; one whose upper half is empty is alone."""
    groups: dict[object, list[_Found]] = defaultdict(list)
    for each in found:
        key = (each.context.mode, each.key) if each.key is not None else id(each)
        groups[key].append(each)
    return list(groups.values())


def _strays(ordered: list[_Found]) -> list[_Found]:
    """Return the roots, of these that come best first, that nothing connects with any other.

    Only the search finds them, no other is in their group, and none is paired with them.
    """
    sizes = Counter(each.group for each in ordered)
    frames = {each.context.root for each in ordered}
    return [
        each
        for each in ordered[1:]
        if sizes[each.group] == 1 and each.sources == [SCAN] and each.pair not in frames
    ]


def _is_stray(each: _Found) -> bool:
    return each.role == STRAY


def _swapper(memory: PhysicalMemory, group: list[_Found]) -> _Found | None:
    """Return the kernel's own root in a group, or None where nothing tells.

    VMCOREINFO names it. Else it is the one without a lower half whose table lies in the kernel's
    image, so that two addresses lead to it: the image's, and one in the mapping of all memory.
    Parts of the image that are freed later have other roots; the kernel's own is then the first
    with one of its tables next to it (Linux, arch/x86/kernel/head_64.S, "init_top_pgt").
    """
    for each in group:
        if VMCOREINFO in each.sources:
            return each
    some = [each for each in group if not each.lower and not each.is_user_of_pair]
    if len(group) < 2 or not some:
        return None
    twice: list[_Found] = []
    for at in range(0, min(len(some), _ASKED), MAX_QUERIES):
        batch = some[at : at + MAX_QUERIES]
        queries = [AliasQuery(each.context.root & -FRAME, FRAME) for each in batch]
        aliases = Aliases(memory, some[0].context, queries)
        for number, each in enumerate(batch):
            if len(list(islice(aliases.find(number), 2))) == 2:
                twice.append(each)
    if len(twice) > 1:
        twice = [each for each in sorted(twice, key=_root_of) if _has_table_next(memory, each)]
    return twice[0] if twice else None


def _root_of(each: _Found) -> int:
    return each.context.root


def _has_table_next(memory: PhysicalMemory, each: _Found) -> bool:
    """Return whether a table of the upper half of a root lies in the frames behind it."""
    root = np.array([each.context.root & -FRAME], np.uint64)
    entries = memory.tables(root)[0, WORDS // 2 :]
    entries = entries[(entries & np.uint64(Entry.P)) != 0]
    away = (entries & np.uint64(each.context.address_mask)).astype(np.int64) - int(root[0])
    return bool(((away > 0) & (away <= _NEXT * FRAME)).any())


def _role(each: _Found, group: list[_Found], swapper: _Found | None) -> str:
    """Return what can be told of a root: see `Root`."""
    if each.is_user_of_pair:
        return "pti-user"
    if each is swapper:
        return "swapper"
    if each.lower_user:
        return "process"
    if each.lower or each.key is None:
        return ""  # Something else: a boot loader's, firmware's, a kernel in the lower half.
    # Where nothing else lives, an empty user half is how a kernel of its own has it.
    if swapper is None and not any(other.lower_user for other in group):
        return ""
    return "lazy" if each.on_cpu else "dead"


def _group_order(group: list[_Found]) -> tuple[int, ...]:
    most = max(each.mappings for each in group)
    return (min(each.rank for each in group), -len(group), -most, group[0].context.root)


def _order(each: _Found) -> tuple[int, ...]:
    return (each.rank, each.group, _ROLES.index(each.role), -each.mappings, each.context.root)
