"""The host of a Linux kernel under EPT: it enforces protection, and handles VM exits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.monitor.guest import Exit
from crosswalk.emu.monitor.vmx import ExitReason, Field, Primary, reason_name
from crosswalk.emu.protect.attack import violation_result
from crosswalk.emu.protect.attack_kinds import CR0_WRITTEN, CR4_WRITTEN, EFER_WRITTEN
from crosswalk.emu.protect.events import (
    GuestEvent,
    departure_of,
    departures_of,
    describe_event,
    same_event,
)
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.facts import GuestState
from crosswalk.emu.protect.kernel.monitored import MonitoredKernel
from crosswalk.emu.protect.kernel.rules import Cause, Grants
from crosswalk.emu.protect.permissions import Permissions
from crosswalk.emu.protect.pins import PINNED, cleared
from crosswalk.walker.access import Access
from crosswalk.walker.architecture import CR3, CR4, EFER, MSR, RFlags
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested import (
    EptCapability,
    EptContext,
    EptViolation,
    NestedContext,
    translate_nested,
)
from crosswalk.walker.nested.outcome import Qualification
from crosswalk.walker.protection.policy import TableKind

__all__ = ["EptProtection", "EptRefusal", "exit_words"]

_CR3_WRITTEN = "write of CR3"
_WRITTEN = {"cr0": CR0_WRITTEN, "cr3": _CR3_WRITTEN, "cr4": CR4_WRITTEN, "efer": EFER_WRITTEN}
_FIELDS = {
    "cr0": (Field.CR0, Field.CR0_MASK, Field.CR0_SHADOW),
    "cr4": (Field.CR4, Field.CR4_MASK, Field.CR4_SHADOW),
}
_VALID, _WITH_ERROR_CODE = 1 << 31, 1 << 11
_UNDEFINED = 1 << 12  # Of what is read of an event; of what is written it has to be clear.


@dataclass(frozen=True, slots=True)
class EptRefusal:
    """What the host refused: the exit, and why."""

    left: Exit
    detail: str

    def __str__(self) -> str:
        left = self.left
        place = f" at {left.gpa:#x}" if left.reason == ExitReason.EPT_VIOLATION else ""
        return f"{exit_words(left)}{place}, RIP {left.rip:#x}, CPL {left.cpl}: {self.detail}"


def exit_words(left: Exit) -> str:
    """Return what exited, in a few words: the register that was written, or the exit reason."""
    name, _ = left.written_register
    return _WRITTEN.get(name) or reason_name(left.reason)


class EptProtection(Enforcement):
    """The host of a kernel that runs under a monitor, from where it is now on.

    `kernel` is what `guest` runs. Before `enforce` nothing is withheld. `refusal` is the last exit
    that was refused. Each EPT violation is predicted by the nested walk, its exit qualification
    included: `known` counts those that came as the machine is known to depart, by its departures'
    names, and `unlike` tells those that came otherwise.
    """

    def __init__(self, guest: MonitoredKernel, kernel: KernelImage) -> None:
        super().__init__(guest.memory, kernel, guest.tables)
        self.guest = guest
        self.refusal: EptRefusal | None = None
        self.unlike: list[str] = []
        self.known: Counter[str] = Counter()
        monitor = guest.monitor
        self._departures = departures_of(monitor.name, monitor.version)
        self._ept = EptContext(
            eptp=guest.tables.eptp(accessed_dirty=True),
            mbec=self.kind is TableKind.EPT_MBEC,
            maxphyaddr=guest.maxphyaddr,
            capabilities=EptCapability(guest.vmx.capabilities.ept_vpid & sum(EptCapability)),
        )
        self._kept: Mapping[str, int] = {}
        self._global_pages = 0
        self.suspend()

    @property
    def left(self) -> Exit:
        """The exit that the guest is at."""
        if self.guest.left is None:
            raise CrosswalkError("the kernel hasn't begun to run")
        return self.guest.left

    @property
    def state(self) -> GuestState:
        """The guest's registers now."""
        left = self.left
        fs_base, gs_base, _ = left.more
        return GuestState(
            general=tuple(left.register(name) for name in GENERAL),
            rip=left.rip,
            cpl=left.cpl,
            rflags=left.rflags,
            context=self.context,
            bases={"fs": fs_base, "gs": gs_base},
        )

    @property
    def context(self) -> PagingContext:
        """The registers that the guest's paging depends on now."""
        left, cpu = self.left, self.guest.vmx.capabilities
        return PagingContext(
            cr0=left.cr0,
            cr3=left.cr3,
            cr4=left.cr4 & ~cpu.cr4_fixed0,
            efer=left.more[2],
            maxphyaddr=self.guest.maxphyaddr,
        )

    @property
    def pinned(self) -> dict[str, list[str]]:
        """The names of the bits that are pinned, by register."""
        return {name: cleared(name, self._kept.get(name, 0), 0) for name in PINNED}

    def enforce(self) -> Grants:
        """Grant what the kernel's mappings allow now, and no more, from here on."""
        context = self.context
        grants = self.begin(context)
        self._kept = {"cr0": context.cr0, "cr4": context.cr4, "efer": context.efer}
        self.resume(grants.permissions)
        return grants

    def resume(self, permissions: Permissions) -> None:
        """Enforce these permissions of frames, and pin control registers if `pins` are on."""
        self.nested.grant(permissions)
        self.open = set()
        (cr4,) = self.guest.vmx.get(Field.CR4)
        self._global_pages = cr4 & CR4.PGE
        self.intercept()
        self.flush()

    def suspend(self) -> None:
        """Stop enforcing: grant everything, and pin nothing."""
        self.nested.grant_all()
        self.open = set()
        self._intercept({})
        self.flush()

    def read_back(self) -> Permissions:
        """Return what the EPT's entries grant each frame, as the CPU finds them."""
        guest = self.guest
        if not (guest.nested_words() == guest.tables.words).all():
            raise CrosswalkError("the EPT in the machine's memory isn't the one that was written")
        return self.nested.read_back()

    def intercept(self) -> None:
        """Have writes that change pinned bits exit, and those to CR3 where a frame is open.

        What drops global translations exits, too: a change of CR4.PGE, and INVLPG.
        """
        self._intercept(self._kept if self.pins else {})

    def flush(self) -> None:
        """Have the CPU use the nested tables as they are now."""
        self.guest.flush()

    def handle(self, left: Exit) -> bool:
        """Handle an exit; return whether the guest goes on, or `refusal` says why not."""
        self.exits[exit_words(left)] += 1
        if left.reason == ExitReason.EPT_VIOLATION:
            refused = self._on_violation(left)
        elif exit_words(left) in _WRITTEN.values():
            refused = self._on_written(left)
        elif left.reason == ExitReason.INVLPG:
            # Without VPIDs the exit itself has dropped all translations.
            self.guest.skip(left)
            self.flushed()
            refused = ""
        else:
            refused = "an exit that no rule is for"
        if refused:
            self.refusal = EptRefusal(left, refused)
        return not refused

    def _on_violation(self, left: Exit) -> str:
        """Handle an EPT violation; return why it is refused, or nothing."""
        predicted, observed = self._predicted(left), _violation(left)
        if not same_event(predicted, observed):
            self._tell(left, predicted, observed)
        frame, made = left.gpa // FRAME, left.qualification
        write, fetch = bool(made & Qualification.WRITE), bool(made & Qualification.FETCH)
        walk = made & Qualification.GLA_VALID and not made & Qualification.PAGE
        if not self._kept or frame >= len(self.nested.granted) or walk or not (write or fetch):
            return Cause.REFUSED.value
        if self.decide(frame, write=write, fetch=fetch) is Cause.REFUSED:
            return Cause.REFUSED.value
        if left.idt_vectoring & _VALID:  # An event was being delivered: it still is to be.
            self.guest.vmx.set(_event_again(left))
        return ""

    def _tell(self, left: Exit, predicted: GuestEvent | None, observed: EptViolation) -> None:
        if known := departure_of(self._departures, predicted, observed):
            self.known[known] += 1
            return
        said = "none" if predicted is None else describe_event(predicted)
        self.unlike.append(f"{describe_event(observed)} at RIP {left.rip:#x}, predicted {said}")

    def _predicted(self, left: Exit) -> GuestEvent | None:
        """Return what the nested walk makes of the access that left the guest."""
        context = NestedContext(self.context, self._ept)
        ac = bool(left.rflags & RFlags.AC)
        # An event is delivered by accesses of the supervisor's, whoever was interrupted.
        cpl = 0 if left.idt_vectoring & _VALID else left.cpl
        access = Access(left.gla, violation_result(_violation(left)).access, cpl, ac)
        outcome = translate_nested(self.guest.system, context, access)
        return replace(outcome, entries=()) if isinstance(outcome, EptViolation) else None

    def _on_written(self, left: Exit) -> str:
        """Carry out the write to a register; return why it is refused, or nothing."""
        name, value = left.written_register
        if lost := cleared(name, self._kept.get(name, 0) if self.pins else 0, value):
            return f"it would clear {name.upper()}.{', '.join(lost)} by {value:#x}"
        self.guest.skip(left)
        vmx = self.guest.vmx
        if name == "cr3":
            vmx.set({Field.CR3: value & ~CR3.NO_FLUSH})
            self.root_written()
        elif name == "efer":
            vmx.set({Field.EFER: value & ~EFER.LMA | left.more[2] & EFER.LMA})
        else:
            own, _, shadow = _FIELDS[name]
            forced = getattr(vmx.capabilities, f"{name}_fixed0")
            vmx.set({own: value | forced, shadow: value})
        if name == "cr4":
            self._global_pages = value & CR4.PGE
            self.flushed()
        return ""

    def _intercept(self, kept: Mapping[str, int]) -> None:
        guest = self.guest
        primary = guest.controls.primary | (Primary.CR3_LOAD_EXITING if self.open else Primary(0))
        primary |= Primary.INVLPG_EXITING if kept else Primary(0)
        controls = replace(guest.controls, primary=primary)
        guest.vmx.set(controls.fields(guest.vmx.capabilities))
        for name, (_, mask, shadow) in _FIELDS.items():
            forced = guest.vmx.capabilities.cr4_fixed0 if name == "cr4" else 0
            pinned, shown = sum(PINNED[name].values()) & kept.get(name, 0), kept.get(name, 0)
            if name == "cr4" and kept:
                pinned |= CR4.PGE
                shown = shown & ~CR4.PGE | self._global_pages
            guest.vmx.set({mask: pinned | forced, shadow: shown})
        guest.intercept(MSR.EFER, write=True, on=bool(kept))


def _violation(left: Exit) -> EptViolation:
    return EptViolation(left.qualification, left.gpa, left.gla)


def _event_again(left: Exit) -> dict[Field, int]:
    """Return the fields by which the next entry delivers the event that an exit interrupted.

    Source: Intel SDM vol. 3C, "Information for VM Exits During Event Delivery".
    """
    found = {
        Field.ENTRY_EVENT: left.idt_vectoring & ~_UNDEFINED,
        Field.ENTRY_INSTRUCTION_LENGTH: left.instruction_length,
    }
    if left.idt_vectoring & _WITH_ERROR_CODE:
        found[Field.ENTRY_EVENT_ERROR] = left.idt_vectoring_error
    return found
