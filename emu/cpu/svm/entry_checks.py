"""What VMRUN refuses: guest states that are no state of a CPU, and controls that mean nothing.

Unicorn enters a guest with any state.

Source: AMD APM vol. 2, "Canonicalization and Consistency Checks", "Event Injection", "Nested
Paging".
"""

from collections.abc import Iterator

from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.cpu.svm.vmcb import General, Vmcb
from crosswalk.walker.architecture import CR0, CR4, EFER, Vector

__all__ = ["refusal"]

_CD, _NW = 1 << 30, 1 << 29
_32_BITS = (1 << 32) - 1
_EFER = EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE | EFER.SVME
# All up to OSXMMEXCPT, and what the model with SVM has besides.
_CR4 = (1 << 11) - 1 | CR4.FSGSBASE | CR4.OSXSAVE | CR4.SMEP | CR4.SMAP
_LONG, _DEFAULT = 1 << 21, 1 << 22  # Of a code segment's flags.
_PHYSICAL = 1 << MAXPHYADDR
_CR3_LONG = _PHYSICAL - 1
_IO_MAP, _MSR_MAP = 3 << 12, 2 << 12  # Bytes of each map.
_PAT_TYPES = {0, 1, 4, 5, 6, 7}

_VALID, _LAST_VECTOR = 1 << 31, 31
_NMI, _EXCEPTION = 2, 3
_TYPES = {0, _NMI, _EXCEPTION, 4}


def refusal(vmcb: Vmcb, host_cr0: int) -> str | None:
    """Return why VMRUN of this guest is VMEXIT_INVALID, or None; `host_cr0` is the host's CR0."""
    return next(_reasons(vmcb, host_cr0), None)


def _reasons(vmcb: Vmcb, host_cr0: int) -> Iterator[str]:
    for wrong, why in (
        *_of_registers(vmcb),
        *_of_modes(vmcb),
        *_of_controls(vmcb),
        *_of_injection(vmcb["entry_event"]),
        *_of_nested_paging(vmcb, host_cr0),
    ):
        if wrong:
            yield why


def _of_registers(vmcb: Vmcb) -> Iterator[tuple[bool, str]]:
    cr0, efer = vmcb["cr0"], vmcb["efer"]
    yield not efer & EFER.SVME, "EFER.SVME is clear"
    yield bool(efer & ~_EFER), "a reserved bit of EFER is set"
    yield cr0 & (_CD | _NW) == _NW, "CR0.NW is set and CR0.CD is clear"
    yield cr0 > _32_BITS, "a bit of CR0[63:32] is set"
    yield bool(vmcb["cr4"] & ~_CR4), "a reserved bit of CR4 is set"
    yield (
        vmcb["dr6"] > _32_BITS or vmcb["dr7"] > _32_BITS,
        "a bit of DR6[63:32] or DR7[63:32] is set",
    )


def _of_modes(vmcb: Vmcb) -> Iterator[tuple[bool, str]]:
    cr0, cr4 = vmcb["cr0"], vmcb["cr4"]
    if not (vmcb["efer"] & EFER.LME and cr0 & CR0.PG):
        return
    code = vmcb.segment("cs").flags
    yield not cr4 & CR4.PAE, "EFER.LME and CR0.PG are set and CR4.PAE is clear"
    yield not cr0 & CR0.PE, "EFER.LME and CR0.PG are set and CR0.PE is clear"
    yield vmcb["cr3"] > _CR3_LONG, "a reserved bit of CR3 is set"
    yield code & _LONG != 0 and code & _DEFAULT != 0, "CS.L and CS.D are set in long mode"


def _of_controls(vmcb: Vmcb) -> Iterator[tuple[bool, str]]:
    general = vmcb["general"]
    yield not general & General.VMRUN, "VMRUN isn't intercepted"
    yield not vmcb["asid"], "the ASID is 0"
    for bit, name, size in ((General.IOIO, "io_map", _IO_MAP), (General.MSR, "msr_map", _MSR_MAP)):
        end = (vmcb[name] & ~0xFFF) + size
        yield bool(general & bit) and end > _PHYSICAL, f"{name} is no physical address"


def _of_injection(word: int) -> Iterator[tuple[bool, str]]:
    if not word & _VALID:
        return
    kind, vector = word >> 8 & 7, word & 0xFF
    yield kind not in _TYPES, "an event of no type is injected"
    wrong = kind == _EXCEPTION and (vector > _LAST_VECTOR or vector == Vector.NMI)
    yield wrong, "an exception is injected with a vector that is none of its"


def _of_nested_paging(vmcb: Vmcb, host_cr0: int) -> Iterator[tuple[bool, str]]:
    if not vmcb["nested"] & 1:
        return
    yield not host_cr0 & CR0.PG, "nested paging, and the host's CR0.PG is clear"
    yield vmcb["nested_cr3"] >= _PHYSICAL, "nested CR3 is no physical address"
    types = vmcb["pat"].to_bytes(8, "little")
    yield (
        any(each not in _PAT_TYPES for each in types),
        "a memory type of the guest's PAT is reserved",
    )
