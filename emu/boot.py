"""Running a guest from its first real-mode instruction to its HLT."""

from dataclasses import dataclass

import capstone
import unicorn
from unicorn import x86_const

from emu.machine.engine import MAXPHYADDR, open_engine
from emu.machine.ram import Ram
from emu.machine.registers import read_registers
from guest.errors import GuestError
from guest.image import Code, GuestImage
from guest.status import Status, describe_state, parse_status
from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import PhysicalMemory, Segments

__all__ = ["Booted", "boot"]

HLT = b"\xf4"
LONGEST_INSTRUCTION = 15
MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
VECTORS = {0: "(#DE)", 1: "(#DB)", 3: "(#BP)", 8: "(#DF)", 13: "(#GP)", 14: "(#PF)"}
EFER = 0xC000_0080
NOWHERE = (1 << 63) - 1  # Not canonical: a guest can't get there.


@dataclass(frozen=True, slots=True)
class Booted:
    """A guest that has come to its HLT: what it has built, and what it says of itself.

    `memory` is a view of `ram`, not a copy. `context` is made of the guest's own report.
    """

    image: GuestImage
    ram: Ram
    memory: PhysicalMemory
    context: PagingContext
    status: Status


@dataclass(slots=True)
class _Watch:
    """What hooks have seen: how many blocks of code ran, and why the engine was stopped."""

    limit: int
    blocks: int = 0
    cause: str = ""

    def on_block(self, engine: unicorn.Uc, _address: int, _size: int, _data: object) -> None:
        self.blocks += 1
        if self.blocks > self.limit and not self.cause:
            self.cause = f"no HLT within {self.limit} blocks of code"
            engine.emu_stop()

    def on_exception(self, engine: unicorn.Uc, vector: int, _data: object) -> None:
        # Only the first one can be trusted: nothing clears the processor's previous exception.
        if not self.cause:
            self.cause = f"exception {vector} {VECTORS.get(vector, '')}".rstrip()
        engine.emu_stop()


def boot(image: GuestImage, *, max_blocks: int = 1_000_000) -> Booted:
    """Run the guest in a fresh machine until it halts, and return what it has made.

    `max_blocks` bounds the run in basic blocks, so that the same guest ends the same way on any
    machine; the built-in guest takes some 15,000.

    Raises `GuestError` if the guest raises an exception, doesn't halt in time, or halts without
    a right and complete account; the message has the cause, the guest's state, the instruction
    and the registers.
    """
    ram = Ram(0, image.ram_size)
    for pa, data in image.segments:
        ram.write(pa, data)
    engine = open_engine(ram, bits=16)
    watch = _Watch(max_blocks)
    engine.hook_add(unicorn.UC_HOOK_BLOCK, watch.on_block)
    engine.hook_add(unicorn.UC_HOOK_INTR, watch.on_exception)
    try:
        engine.emu_start(image.entry, NOWHERE)
    except unicorn.UcError as error:
        watch.cause = watch.cause or str(error)

    block = ram.read(image.status_pa, image.status_size)
    registers = read_registers(engine)
    at = registers["rip"]
    if not watch.cause:
        at -= 1  # RIP is past the HLT.
        if _code_at(image, ram, at)[:1] != HLT:
            watch.cause = "stopped without a HLT"
    try:
        status = _account(watch, block)
        _check_registers(status, engine)
        context = _context(status)
        _check_world(image, status, context)
    except (BadInput, GuestError) as error:
        shown = " ".join(f"{name}={value:#x}" for name, value in registers.items() if value)
        where = _disassembled(image, ram, at)
        raise GuestError(f"{image.name}: {error}; at {where}; {shown}, others 0") from error
    memory = Segments([(ram.start, ram.bytes)])
    return Booted(image=image, ram=ram, memory=memory, context=context, status=status)


def _account(watch: _Watch, block: bytes) -> Status:
    """Return what the guest says of itself, if it came to its end at all."""
    if watch.cause:
        raise GuestError(f"{watch.cause}; state: {describe_state(block)}")
    return parse_status(block)


def _context(status: Status) -> PagingContext:
    return PagingContext(
        cr0=status.cr0,
        cr3=status.cr3,
        cr4=status.cr4,
        efer=status.efer,
        pkru=status.pkru,
        maxphyaddr=MAXPHYADDR,
    )


def _check_registers(status: Status, engine: unicorn.Uc) -> None:
    """Hold the guest's account against the processor."""
    for name, reported, actual in (
        ("cr0", status.cr0, engine.reg_read(x86_const.UC_X86_REG_CR0)),
        ("cr3", status.cr3, engine.reg_read(x86_const.UC_X86_REG_CR3)),
        ("cr4", status.cr4, engine.reg_read(x86_const.UC_X86_REG_CR4)),
        ("efer", status.efer, engine.reg_read(x86_const.UC_X86_REG_MSR, EFER)),
    ):
        if actual != reported:
            raise GuestError(f"the guest reports {name} = {reported:#x}, but it is {actual:#x}")


def _check_world(image: GuestImage, status: Status, context: PagingContext) -> None:
    """Hold the guest's account against its image."""
    if context.levels != image.levels:
        raise GuestError(f"the guest runs with {context.levels} paging levels")
    if status.tables[0].pa != context.root:
        raise GuestError(f"the guest's first table is not the root at {context.root:#x}")
    if status.proof != image.proof:
        raise GuestError(f"the guest's proof is {status.proof:#x}, not {image.proof:#x}")


def _code_at(image: GuestImage, ram: Ram, va: int) -> bytes:
    """Return the bytes that may be an instruction at `va`; none outside RAM."""
    code = _owner(image, va)
    pa = va if code is None else code.pa + va - code.va
    return ram.read(pa, min(LONGEST_INSTRUCTION, ram.size - pa)) if 0 <= pa < ram.size else b""


def _owner(image: GuestImage, va: int) -> Code | None:
    """Return the piece of the image's code that runs at `va`."""
    return next((code for code in image.code if 0 <= va - code.va < len(code.data)), None)


def _disassembled(image: GuestImage, ram: Ram, va: int) -> str:
    owner = _owner(image, va)
    if owner is None:
        return f"{va:#x}, outside the guest's code"
    code = _code_at(image, ram, va)
    for instruction in capstone.Cs(capstone.CS_ARCH_X86, MODES[owner.bits]).disasm(code, va, 1):
        return f"{va:#x}: {instruction.mnemonic} {instruction.op_str}".rstrip()
    return f"{va:#x}: {code.hex(' ')}"
