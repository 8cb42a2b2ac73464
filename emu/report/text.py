"""Mappings, accesses and outcomes as lines of text, one formatter for each kind of value."""

from collections.abc import Iterable, Iterator

from crosswalk.walker.access import Access
from crosswalk.walker.context import PagingContext, PagingMode, Vendor
from crosswalk.walker.entry import Entry, level_of, protection_key
from crosswalk.walker.mappings import Mapping, Range, RootedMapping
from crosswalk.walker.outcome import Outcome, PageFault, Translation, error_names
from crosswalk.walker.rights import Rights
from crosswalk.walker.translate import Step, StepKind, Walk

__all__ = [
    "FRAME_HEADING",
    "GUEST_HEADING",
    "GUEST_RANGE_HEADING",
    "MAPPING_HEADING",
    "RANGE_HEADING",
    "access_text",
    "context_text",
    "count_text",
    "entry_name",
    "flags_text",
    "frame_text",
    "mapping_text",
    "no_walk_text",
    "outcome_text",
    "range_text",
    "rights_text",
    "size_text",
    "step_text",
    "stride_text",
    "walk_lines",
    "words_text",
]

MAPPING_HEADING = f"{'VA':<16} {'PA':<13} {'SIZE':>7} SUP USR  FLAGS"
"""What the columns of `mapping_text` are: addresses, size, the supervisor's and user's rights."""
RANGE_HEADING = f"{'VA':<33} {'PA':<13} {'SIZE':>12} SUP USR  PAGES"
"""The same of `range_text`."""
GUEST_HEADING = f"{'GPA':<13} {'PA':<13} {'SIZE':>7} SUP USR  FLAGS"
"""The same of pages of guest-physical addresses."""
GUEST_RANGE_HEADING = f"{'GPA':<27} {'PA':<13} {'SIZE':>12} SUP USR  PAGES"
"""The same of ranges of them."""
FRAME_HEADING = f"{'PA':<27} {'SIZE':>12} SUP USR"
"""The same of `frame_text`."""

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_FLAGS = (Entry.RW, Entry.US, Entry.PWT, Entry.PCD, Entry.A, Entry.D, Entry.PS, Entry.G)


def count_text(count: int, noun: str) -> str:
    """Return a number of things: "1 layout", "2,000 layouts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size_text(size: int) -> str:
    """Return a size in bytes in the largest unit that divides it."""
    for unit, number in _UNITS:
        if size and size % number == 0:
            return f"{size // number:,} {unit}"
    return f"{size:,} B"


def flags_text(level: int, entry: int) -> str:
    """Return the names of the flags set in an entry, P left out; PAT and key where they mean it."""
    names = [str(flag.name) for flag in _FLAGS if entry & flag]
    if level == 1:
        names = ["PAT" if name == "PS" else name for name in names]
    elif entry & Entry.PS and entry & Entry.PAT_LARGE:
        names.append("PAT")
    if entry & Entry.XD:
        names.append("XD")
    key = protection_key(entry)
    return " ".join(names + ([f"PK={key}"] if key else []))


def mapping_text(mapping: Mapping) -> str:
    """Return one mapping as a line; one of several address spaces with its root."""
    text = (
        f"{mapping.va:016x} {mapping.pa:013x} {size_text(mapping.size):>7} "
        f"{rights_text(mapping.rights)}  {flags_text(mapping.level, mapping.flags)}"
    )
    if not isinstance(mapping, RootedMapping):
        return text
    others = f" and {count_text(mapping.roots - 1, 'other')}" if mapping.roots > 1 else ""
    return f"{text}; root {mapping.context.root:#x}{others}"


def range_text(folded: Range) -> str:
    """Return one folded range as a line."""
    last = folded.va + folded.size - 1
    gaps = folded.size != folded.count * folded.stride
    repeats = stride_text(folded.stride, gaps=gaps)
    return (
        f"{folded.va:016x}-{last:016x} {folded.pa:013x} {size_text(folded.size):>12} "
        f"{rights_text(folded.rights)}  {count_text(folded.count, 'page')}{repeats}"
    )


def stride_text(stride: int, *, gaps: bool) -> str:
    """Return what stands behind the number of pages of a range: that they are of one frame."""
    every = f", every {size_text(stride)}" if gaps else ""
    return f" of one frame{every}" if stride else ""


def frame_text(start: int, size: int, rights: Rights) -> str:
    """Return one physical range as a line."""
    return f"{start:013x}-{start + size - 1:013x} {size_text(size):>12} {rights_text(rights)}"


def access_text(access: Access) -> str:
    """Return an access in words."""
    ac = ", AC set" if access.ac else ""
    return f"{access.type.name.lower()} of {access.va:#x} at CPL {access.cpl}{ac}"


def outcome_text(outcome: Outcome, *, may: bool = False, placed: bool = True) -> str:
    """Return an outcome in words, with the entries it changed, or with `may` was free to.

    Without `placed` it isn't known which address was reached.
    """
    if isinstance(outcome, Translation):
        text = f"ok, pa {outcome.pa:#x}" if placed else "ok, at an address that can't be shown"
    elif isinstance(outcome, PageFault):
        names = error_names(outcome.error_code)
        text = f"#PF, error code {outcome.error_code:#x} ({names}), CR2 {outcome.cr2:#x}"
    else:
        text = "#GP(0)"
    if not outcome.entries:
        return text
    how = "may change" if may and isinstance(outcome, PageFault) else "changes"
    return f"{text}; {how} {words_text(outcome.entries)}"


def words_text(words: Iterable[tuple[int, int]]) -> str:
    """Return changed words by address."""
    return ", ".join(f"{pa:#x} = {value:#x}" for pa, value in words)


def walk_lines(context: PagingContext, path: Walk) -> Iterator[str]:
    """Yield a line for each step of a walk."""
    if not path.steps:
        yield f"  {no_walk_text(context, path)}"
    for step in path.steps:
        yield f"  {step_text(context, step)}"


def no_walk_text(context: PagingContext, path: Walk) -> str:
    """Return why a walk has no steps."""
    if context.canonical(path.va):
        return "no entry is read: LASS keeps this privilege out of this half"
    return f"not canonical: linear addresses have {context.va_bits} bits"


def step_text(context: PagingContext, step: Step) -> str:
    """Return an entry as a line: its name, address, value, kind and flags."""
    flags = flags_text(step.level, step.entry) if step.kind is not StepKind.NOT_PRESENT else ""
    entry = f"{step.entry:#0{2 + 2 * level_of(context, step.level).entry_size}x}"
    name = entry_name(context, step)
    return f"{name:<12} at {step.pa:#013x} = {entry}  {step.kind.value}  {flags}".rstrip()


def entry_name(context: PagingContext, step: Step) -> str:
    """Return an entry's name with its place in its table, as `PDE[5]`."""
    level = level_of(context, step.level)
    return f"{level.entry}[{step.pa // level.entry_size % level.entries}]"


def context_text(context: PagingContext) -> str:
    """Return the control state in one line."""
    on = [
        name
        for name, value in (
            ("WP", context.wp),
            ("PSE", context.pse and context.mode is PagingMode.BIT32),
            ("NXE", context.nxe),
            ("SMEP", context.smep),
            ("SMAP", context.smap),
            ("PKE", context.pke),
            ("PKS", context.pks),
            ("LASS", context.lass),
            ("LAM_U57", context.lam_user == 57),
            ("LAM_U48", context.lam_user == 48),
            ("LAM_SUP", context.lam_supervisor),
            ("UAI", context.uai),
        )
        if value
    ]
    mask = context.encryption_mask
    encrypted = f", encryption mask {mask:#x}" if mask else ""
    keys = f", PKRU {context.pkru:#x}" if context.pke else ""
    keys += f", PKRS {context.pkrs:#x}" if context.pks else ""
    small = ", no 1-GiB pages" if context.mode.long and not context.page1gb else ""
    vendor = ", AMD" if context.vendor is Vendor.AMD else ""
    return (
        f"{context.mode} paging, CR3 {context.cr3:#x}, {' '.join(on) or 'no protections'}, "
        f"MAXPHYADDR {context.maxphyaddr}{small}{vendor}{encrypted}{keys}"
    )


def rights_text(rights: Rights) -> str:
    """Return the supervisor's and the user's rights: `rwx r--`."""
    return f"{rights.supervisor} {rights.user}"
