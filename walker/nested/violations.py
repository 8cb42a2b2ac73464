"""What an EPT leaves of an access, and the VM exit that it ends in where it leaves too little."""

from dataclasses import dataclass
from functools import reduce
from operator import and_

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import EptCapability, EptContext
from crosswalk.walker.nested.ept import (
    EPT_LEVELS,
    EptEntry,
    descend_ept,
    ept_leaf_address,
    ept_uses,
)
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation, Qualification
from crosswalk.walker.protection.policy import Use
from crosswalk.walker.rights import EXECUTES, WRITES, Grant, Rights
from crosswalk.walker.translate import Step, StepKind, Walk

__all__ = ["Ept", "ept_uses_of"]

_ACCESSES = {
    AccessType.READ: Qualification.READ,
    AccessType.WRITE: Qualification.WRITE,
    AccessType.EXECUTE: Qualification.FETCH,
}
_READS = Rights.SUPERVISOR_READ | Rights.USER_READ
_GUEST = Qualification.GUEST_USER | Qualification.GUEST_WRITABLE | Qualification.GUEST_NO_EXECUTE
_RIGHTS = (
    Qualification.READABLE
    | Qualification.WRITABLE
    | Qualification.EXECUTABLE
    | Qualification.USER_EXECUTABLE
)
_USES_SHIFT = 3
"""How much further up READABLE to USER_EXECUTABLE are than `Use`."""


def ept_uses_of(context: EptContext, path: Walk) -> Use:
    """Return what all entries of a walk let through together; nothing where it has no entry."""
    entries = [step.entry for step in path.steps]
    return ept_uses(context, reduce(and_, entries)) if entries else Use(0)


@dataclass(frozen=True, slots=True)
class Ept:
    """The host's side of a walk in two dimensions where it is an EPT.

    Source: Intel SDM vol. 3C, "EPT Violations", "Accessed and Dirty Flags for EPT", "Basic VM-Exit
    Information".
    """

    context: EptContext

    @property
    def accessed(self) -> int:
        """The bits that are set in each entry used."""
        return int(EptEntry.A) if self.context.accessed_dirty else 0

    @property
    def dirty(self) -> int:
        """The bits that are set in the leaf of a write."""
        return int(EptEntry.D) if self.context.accessed_dirty else 0

    def descend(self, memory: PhysicalMemory, gpa: int) -> Walk:
        """Return the entries that a guest-physical address selects."""
        return descend_ept(memory, self.context, gpa)

    def maps(self, path: Walk) -> bool:
        """Return whether this walk ends at a page."""
        return path.leaf is not None

    def span(self, leaf: Step) -> int:
        """Return the bytes that a leaf maps."""
        return EPT_LEVELS[leaf.level].span

    def address(self, leaf: Step, gpa: int) -> int:
        """Return the physical address of a guest-physical one in the page that a leaf maps."""
        within = self.span(leaf) - 1
        return ept_leaf_address(self.context, leaf.level, leaf.entry) | gpa & within

    def table_fault(self, path: Walk, va: int) -> EptViolation | EptMisconfiguration | None:
        """Return what reading a guest entry at the end of this walk ends in, or None."""
        needed, made = Use.READ, Qualification.READ
        if self.context.accessed_dirty:
            needed, made = needed | Use.WRITE, made | Qualification.WRITE
        return self._fault(path, va, needed, made)

    def update_fault(self, path: Walk, va: int) -> EptViolation | None:
        """Return what setting A or D in a guest entry ends in, or None.

        Whether an access that reads and writes sets bit 0 is left to the processor.
        """
        if ept_uses_of(self.context, path) & Use.WRITE:
            return None
        made = Qualification.READ | Qualification.WRITE
        return self._violation(path, va, made, int(Qualification.READ | _GUEST))

    def page_fault(
        self, path: Walk, access: Access, grant: int
    ) -> EptViolation | EptMisconfiguration | None:
        """Return what an access to the page ends in, or None; `grant` is the guest's.

        Those are the `Grant` bits of its linear address.
        """
        needed = {
            AccessType.READ: Use.READ,
            AccessType.WRITE: Use.WRITE,
            AccessType.EXECUTE: _executes(grant),
        }[access.type]
        made, undefined = _ACCESSES[access.type] | Qualification.PAGE, 0
        if self.context.capabilities & EptCapability.ADVANCED:
            if grant & Grant.USER:
                made |= Qualification.GUEST_USER
            if grant & Grant.WRITE:
                made |= Qualification.GUEST_WRITABLE
            if not grant & Grant.EXECUTE:
                made |= Qualification.GUEST_NO_EXECUTE
        else:
            undefined = int(_GUEST)
        return self._fault(path, access.va, needed, made, undefined)

    def withheld(self, path: Walk, grant: int) -> Rights:
        """Return the rights that the entries of a page take from those that the guest grants."""
        uses = ept_uses_of(self.context, path)
        return (
            (Rights(0) if uses & Use.READ else _READS)
            | (Rights(0) if uses & Use.WRITE else WRITES)
            | (Rights(0) if uses & _executes(grant) else EXECUTES)
        )

    def _fault(
        self,
        path: Walk,
        va: int,
        needed: Use,
        made: Qualification,
        undefined: int = int(_GUEST),
    ) -> EptViolation | EptMisconfiguration | None:
        last = path.steps[-1] if path.steps else None
        if last is not None and last.kind is StepKind.MISCONFIGURED:
            return EptMisconfiguration(path.va)
        # An entry that isn't present lets nothing through.
        if ept_uses_of(self.context, path) & needed == needed:
            return None
        return self._violation(path, va, made, undefined)

    def _violation(self, path: Walk, va: int, made: Qualification, undefined: int) -> EptViolation:
        uses = ept_uses_of(self.context, path)
        if not self.context.mbec:
            uses &= ~Use.USER_EXECUTE
            undefined |= Qualification.USER_EXECUTABLE
        if not path.steps:
            undefined |= _RIGHTS
        # Defined under supervisor shadow stacks alone.
        undefined |= Qualification.SHADOW_STACK_PAGE
        qualification = int(made | Qualification.GLA_VALID) | int(uses) << _USES_SHIFT
        return EptViolation(qualification, path.va, va, open=int(undefined))


def _executes(grant: int) -> Use:
    """Return the right to execute that a linear address needs, by the guest's U/S of it."""
    return Use.USER_EXECUTE if grant & Grant.USER else Use.SUPERVISOR_EXECUTE
