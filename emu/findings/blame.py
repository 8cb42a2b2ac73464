"""The entries that a finding is about: which of a walk, and which beside it."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from crosswalk.emu.findings.signature import (
    CANONICAL,
    EFFECTIVE,
    LOADED,
    OF_PDPTES,
    PAGES,
    RESERVED,
)
from crosswalk.emu.report.text import size_text
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import (
    Entry,
    is_leaf,
    leaf_address,
    level_of,
    protection_key,
    reserved_bits,
)
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.translate import Step, StepKind, Walk, step_at

__all__ = ["Beside", "beside", "blamed"]

_MOST_TABLES = 4096
"""The most tables that are looked at for what an entry beside the walk is."""


def blamed(context: PagingContext, rule: str, access: Access, path: Walk) -> dict[int, str]:
    """Return what of which entry a rule is about, in words by the entry's physical address.

    Empty where no entry decides: an address that isn't canonical, LASS, LAM.
    """
    if not path.steps or rule == CANONICAL:
        return {}
    if rule.startswith(OF_PDPTES):
        return {path.steps[0].pa: "its bit 5"}
    last = path.steps[-1]
    if last.kind is StepKind.OUTSIDE:
        return _leads_outside(context, path.steps)
    if last.kind is StepKind.RESERVED or rule.startswith((RESERVED, LOADED)):
        return {last.pa: _reserved_text(context, last)}
    if last.kind is StepKind.NOT_PRESENT:
        return {last.pa: "P clear"}
    return _of_page(context, rule, access, path.steps)


def _of_page(
    context: PagingContext, rule: str, access: Access, steps: Sequence[Step]
) -> dict[int, str]:
    """Return the same of a walk that ends at a page."""
    last = steps[-1]
    if _OF_TABLES in rule and _OF_LEAF not in rule:
        return {step.pa: "its A" for step in steps[:-1] if step.restricts}
    if rule.startswith(_KEY):
        return {last.pa: _key_text(context, steps)}
    text = next((text for begins, text in _LEAF if rule.startswith(begins)), None)
    if text is not None:
        return {last.pa: text(context, last)}
    if _OF_LEAF in rule:
        bits = [bit for bit in ("A", "D") if f"{bit}{_OF_LEAF}" in rule]
        return {last.pa: f"its {' and '.join(bits)}"}
    if rule.startswith(EFFECTIVE):
        lacks = _lacking(rule.removeprefix(EFFECTIVE).partition(" ")[0], steps)
    else:
        lacks = _withheld(context, access, steps)
    return lacks or {last.pa: "withholds nothing, nor does an entry above it"}


def _key_text(context: PagingContext, steps: Sequence[Step]) -> str:
    key = protection_key(steps[-1].entry)
    user_page = all(step.entry & Entry.US for step in steps)
    register, value = ("PKRU", context.pkru) if user_page else ("PKRS", context.pkrs)
    rights = [name for bit, name in ((1, "AD"), (2, "WD")) if value >> 2 * key & bit]
    return f"key {key}, for which {register} has {' and '.join(rights) or 'neither AD nor WD'}"


def _size_text(context: PagingContext, leaf: Step) -> str:
    return f"maps {size_text(level_of(context, leaf.level).span)}"


def _address_text(context: PagingContext, leaf: Step) -> str:
    return f"maps {leaf_address(context, leaf.level, leaf.entry):#x}"


_KEY = "protection key"
_OF_TABLES, _OF_LEAF = " of a table's entry", " of a leaf"
_LEAF: tuple[tuple[str, Callable[[PagingContext, Step], str]], ...] = (
    ("size of", _size_text),
    ("address of", _address_text),
    ("flags of", lambda *_: "its bits outside the address"),
    *((f"a {page} page that is there", _size_text) for page in PAGES),
)
"""What of a leaf a rule is about, by how the rule begins."""


def _reserved_text(context: PagingContext, step: Step) -> str:
    leaf = is_leaf(context, step.level, step.entry)
    wrong = step.entry & reserved_bits(context, step.level, leaf=leaf)
    if not wrong:
        return "no reserved bit"
    names = ["PS (7)" if wrong & Entry.PS else "", "XD (63)" if wrong & Entry.XD else ""]
    rest = wrong & ~(Entry.PS | Entry.XD)
    many = rest & rest - 1
    bits = f"bit{'s' if many else ''} {_ranges(rest)}" if rest else ""
    return f"reserved: {', '.join(name for name in (names[1], bits, names[0]) if name)}"


def _ranges(bits: int) -> str:
    """Return the numbers of bits, neighbours together: `51:40, 8`."""
    parts: list[str] = []
    high = bits.bit_length() - 1
    while high >= 0:
        low = high
        while low and bits >> low - 1 & 1:
            low -= 1
        parts.append(str(high) if low == high else f"{high}:{low}")
        high = (bits & (1 << low) - 1).bit_length() - 1
    return ", ".join(parts)


def _leads_outside(context: PagingContext, steps: Sequence[Step]) -> dict[int, str]:
    if len(steps) == 1:
        return {steps[0].pa: "CR3 leads outside RAM"}
    above = steps[-2]
    return {above.pa: f"its table at {above.entry & context.address_mask:#x} is outside RAM"}


def _withheld(context: PagingContext, access: Access, steps: Sequence[Step]) -> dict[int, str]:
    """Return the entries that withhold what the access needs; the leaf where SMEP or SMAP do."""
    user = access.cpl == 3
    ac = context.rflags_ac if access.ac is None else access.ac
    lacks: dict[int, list[str]] = {}
    for step in steps:
        if not step.restricts:
            continue
        texts = []
        if access.type is AccessType.WRITE and (user or context.wp) and not step.entry & Entry.RW:
            texts.append("R/W clear")
        if access.type is AccessType.EXECUTE and context.nxe and step.entry & Entry.XD:
            texts.append("XD set")
        if user and not step.entry & Entry.US:
            texts.append("U/S clear")
        if texts:
            lacks[step.pa] = texts
    if not user and all(step.entry & Entry.US for step in steps if step.restricts):
        fetch = access.type is AccessType.EXECUTE
        barred = "SMEP" if fetch and context.smep else ""
        if not fetch and context.smap and not ac:
            barred = "SMAP"
        if barred:
            lacks.setdefault(steps[-1].pa, []).append(
                f"U/S set at every level: {barred} bars the supervisor"
            )
    return {pa: ", ".join(texts) for pa, texts in lacks.items()}


def _lacking(right: str, steps: Sequence[Step]) -> dict[int, str]:
    """Return the entries that withhold a right by themselves, whoever makes the access."""
    bit, text = {
        "U/S": (Entry.US, "U/S clear"),
        "R/W": (Entry.RW, "R/W clear"),
        "XD": (Entry.XD, "XD set"),
    }[right]
    rows = (step for step in steps if step.restricts)
    return {step.pa: text for step in rows if bool(step.entry & bit) is (bit is Entry.XD)}


@dataclass(frozen=True, slots=True)
class Beside:
    """An entry that a walk doesn't read: what it is, and the first address that it is read for.

    `step` is None for a word that lies in no table.
    """

    pa: int
    word: int
    step: Step | None
    va: int = 0

    @property
    def level(self) -> int:
        """The level of its table, 0 of a word in none."""
        return 0 if self.step is None else self.step.level


def beside(
    memory: PhysicalMemory,
    context: PagingContext,
    words: Mapping[int, int],
    walked: Sequence[Walk],
) -> list[Beside]:
    """Return the entries of a case that none of these walks reads, those of the root first.

    `words` are the case's, 8 bytes each by physical address. What an entry is follows from the
    tables that CR3 leads to; of one that is read at several levels, the first one counts.
    """
    seen = {step.pa for path in walked for step in path.steps}
    found: dict[int, Beside] = {}
    covered: set[int] = set()
    for step, va in _entries(memory, context, words):
        covered.add(step.pa & -8)
        if step.pa not in seen and step.entry:
            found.setdefault(step.pa, Beside(step.pa, step.entry, step, va))
    for pa, word in words.items():
        if pa not in covered and pa not in seen:
            found[pa] = Beside(pa, word, None)
    return sorted(found.values(), key=lambda each: (-each.level, each.pa))


def _entries(
    memory: PhysicalMemory, context: PagingContext, words: Mapping[int, int]
) -> Iterator[tuple[Step, int]]:
    """Yield each entry among the words that CR3 leads to, and the first address it is read for.

    Those of good tables come first, root first. Then those of tables that only a walker reads
    which takes an entry for good that isn't: one that is absent, or sets reserved bits.
    """
    by_frame: dict[int, list[int]] = {}
    for pa in sorted(words):
        by_frame.setdefault(pa >> 12, []).append(pa)
    tables = deque([(context.root, context.levels, 0)])
    doubtful: deque[tuple[int, int, int]] = deque()
    known: set[tuple[int, int]] = set()
    while (tables or doubtful) and len(known) < _MOST_TABLES:
        base, number, start = (tables or doubtful).popleft()
        if (base, number) in known:
            continue
        known.add((base, number))
        level = level_of(context, number)
        size = level.entries * level.entry_size
        inside = (pa for pa in by_frame.get(base >> 12, ()) if base <= pa < base + size)
        for pa in (at for word in inside for at in range(word, word + 8, level.entry_size)):
            step = step_at(memory, context, level, pa)
            va = start + ((pa - base) // level.entry_size << level.shift)
            yield step, _sign_extended(context, va)
            below = step.entry & context.address_mask, number - 1, va
            if step.kind is StepKind.TABLE:
                tables.append(below)
            elif number > 1 and not is_leaf(context, number, step.entry):
                doubtful.append(below)


def _sign_extended(context: PagingContext, va: int) -> int:
    if context.mode in {PagingMode.BIT32, PagingMode.PAE} or not va >> context.va_bits - 1:
        return va
    return va | (1 << 64) - (1 << context.va_bits)
