"""An EPT as text: its state, the flags of its entries, and the steps of a walk."""

from collections.abc import Iterator

from crosswalk.walker.nested.context import EptCapability, EptContext
from crosswalk.walker.nested.ept import (
    EPT_LEVELS,
    EPT_MEMORY_TYPES,
    EPT_TYPE_MASK,
    EPT_TYPE_SHIFT,
    EptEntry,
    misconfigured,
)
from crosswalk.walker.translate import Step, StepKind, Walk

__all__ = ["EPT_FLAGS", "ept_context_text", "ept_flags_text", "ept_step_text", "ept_walk_lines"]

EPT_FLAGS = {
    EptEntry.R: ("R", "readable, as far as this entry goes"),
    EptEntry.W: ("W", "writable, as far as this entry goes"),
    EptEntry.X: ("X", "executable, as far as this entry goes; with MBEC by the supervisor"),
    EptEntry.XU: ("XU", "with MBEC executable by user mode; ignored without"),
    EptEntry.IPAT: ("IPAT", "the guest's PAT has no say in the memory type"),
    EptEntry.PS: ("PS", "page size: the entry maps a large page"),
    EptEntry.A: ("A", "accessed; ignored unless bit 6 of the EPTP is set"),
    EptEntry.D: ("D", "dirty: written to; the same"),
    EptEntry.VERIFY_PAGING: ("VGP", "verify guest paging; its control is taken to be off"),
    EptEntry.PAGING_WRITE: ("PWA", "paging-write access; the same"),
    EptEntry.SUPERVISOR_SHADOW_STACK: ("SSS", "supervisor shadow stack; the same"),
    EptEntry.SUBPAGE_WRITE: ("SPP", "sub-page write permissions; the same"),
    EptEntry.SUPPRESS_VE: ("SVE", "suppress #VE; the same"),
}
"""What the bits are called in a listing, in the order in which they are listed, and mean."""


def ept_flags_text(entry: int, level: int) -> str:
    """Return the names of the flags set in an entry of a level; its memory type isn't among them.

    Bit 7 means nothing in a PTE, and isn't named there.
    """
    if level == 1:
        entry &= ~EptEntry.PS
    return " ".join(name for flag, (name, _) in EPT_FLAGS.items() if entry & flag)


def ept_context_text(context: EptContext) -> str:
    """Return how an EPT is read in one line."""
    kind = EPT_MEMORY_TYPES[context.eptp & 7].upper()
    on = [
        name for name, value in (("A/D", context.accessed_dirty), ("MBEC", context.mbec)) if value
    ]
    lacking = EptCapability(~context.capabilities & sum(EptCapability))
    lacks = f", no {' '.join(str(bit.name) for bit in lacking)}" if lacking else ""
    return (
        f"{context.levels}-level EPT in {kind} memory, EPTP {context.eptp:#x}, "
        f"{' '.join(on) or 'neither A/D nor MBEC'}, MAXPHYADDR {context.maxphyaddr}{lacks}"
    )


def ept_walk_lines(context: EptContext, path: Walk) -> Iterator[str]:
    """Yield a line for each step of the walk of a guest-physical address."""
    for step in path.steps:
        yield f"  {ept_step_text(context, step)}"


def ept_step_text(context: EptContext, step: Step) -> str:
    """Return an entry as a line: its name, address, value, kind, flags and memory type."""
    level = EPT_LEVELS[step.level]
    name = f"{level.entry}[{step.pa // level.entry_size % level.entries}]"
    flags = ept_flags_text(step.entry, step.level) if step.kind is not StepKind.NOT_PRESENT else ""
    if step.kind is StepKind.LEAF:
        number = (step.entry & EPT_TYPE_MASK) >> EPT_TYPE_SHIFT
        flags = f"{flags} {EPT_MEMORY_TYPES[number].upper()}"
    kind = step.kind.value
    if step.kind is StepKind.MISCONFIGURED:
        kind = f"{kind}: {misconfigured(context, step.level, step.entry)}"
    return f"{name:<15} at {step.pa:#013x} = {step.entry:#018x}  {kind}  {flags}".rstrip()
