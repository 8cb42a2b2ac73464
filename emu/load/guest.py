"""Run the built-in guest from its first real-mode instruction to its HLT."""

from dataclasses import dataclass, field, replace

import capstone
import unicorn
from unicorn import x86_const

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.delivery import Event, Kind, TripleFault, deliver, raised, vector_name
from crosswalk.emu.cpu.engine import MAXPHYADDR, open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.state_layout import read_registers
from crosswalk.guest.errors import GuestError
from crosswalk.guest.image import Code, GuestImage
from crosswalk.guest.status import Status, Taken, describe_state, parse_status
from crosswalk.guest.traps import check_taken
from crosswalk.walker.architecture import EFER, MSR, RFlags, Vector
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory, Segments

__all__ = ["Booted", "boot"]

HLT = b"\xf4"
LONGEST_INSTRUCTION = 15
MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
SHOWN_EVENTS = 4


@dataclass(frozen=True, slots=True)
class Booted:
    """A guest that has reached its HLT: what it has built, and its status report.

    `memory` is a view of `ram`, not a copy. `context` is made from the status report.
    """

    image: GuestImage
    ram: Ram
    memory: PhysicalMemory
    context: PagingContext
    status: Status


@dataclass(slots=True)
class _Hooks:
    """The hooks of a run, and what they record: blocks, exceptions, the cause of a stop.

    `taken` has what the processor gave each handler that it entered, with 0 for the top of the
    stack; `events` are all that were raised, those during a delivery included.
    """

    cpu: Cpu
    limit: int
    blocks: int = 0
    cause: str = ""
    taken: list[Taken] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def on_block(self, engine: unicorn.Uc, _address: int, _size: int, _data: object) -> None:
        self.blocks += 1
        if self.blocks > self.limit and not self.cause:
            self.cause = f"no HLT within {self.limit} blocks of code"
            engine.emu_stop()

    def on_exception(self, _engine: unicorn.Uc, vector: int, _data: object) -> None:
        self._deliver(raised(self.cpu, vector))

    def on_invalid(self, _engine: unicorn.Uc, _data: object) -> bool:
        return self._deliver(Event(Vector.UD, Kind.EXCEPTION))

    @property
    def last(self) -> str:
        """The last exceptions in words, if there were any."""
        names = ", ".join(vector_name(event.vector) for event in self.events[-SHOWN_EVENTS:])
        return f"; last exceptions: {names}" if names else ""

    def _deliver(self, event: Event) -> bool:
        """Have the guest's handler of an event run next; stop the engine if there is none."""
        cpu = self.cpu
        efer = cpu.engine.reg_read(x86_const.UC_X86_REG_MSR, MSR.EFER)
        if self.cause or not efer & EFER.LMA:
            return self._stop(f"exception {vector_name(event.vector)}")
        cpu.load()
        code, stack = (cpu.segment(name).selector for name in ("cs", "ss"))
        frame = (cpu.rip, code, cpu.rflags, cpu.rsp, stack)
        try:
            tried = deliver(cpu, event)
        except TripleFault as fault:
            return self._stop(f"exception {vector_name(event.vector)}: {fault}")
        last = tried[-1]
        cr2 = cpu.cr2 if last.vector == Vector.PF else 0
        self.taken.append(Taken(last.vector, last.error_code, *frame, cr2, 0))
        self.events += tried
        return True

    def _stop(self, cause: str) -> bool:
        self.cause = self.cause or cause
        self.cpu.engine.emu_stop()
        return False


def boot(image: GuestImage, *, max_blocks: int = 1_000_000) -> Booted:
    """Run the guest in a fresh machine until it halts, and return the result.

    In long mode it takes exceptions through its own IDT.

    `max_blocks` bounds the run in basic blocks, so that a guest ends the same way on any machine;
    the built-in guest takes some 15,000.

    Raises `GuestError` if the guest raises an exception that it can't take, doesn't halt in time or
    halts without a correct and complete status report; the message has the cause, the guest's
    state, the instruction and the registers.
    """
    ram = Ram(0, image.ram_size)
    for pa, data in image.segments:
        ram.write(pa, data)
    engine = open_engine(ram, bits=16)
    hooks = _Hooks(Cpu(engine, ram), max_blocks)
    engine.hook_add(unicorn.UC_HOOK_BLOCK, hooks.on_block)
    engine.hook_add(unicorn.UC_HOOK_INTR, hooks.on_exception)
    engine.hook_add(unicorn.UC_HOOK_INSN_INVALID, hooks.on_invalid)
    # An address to stop at would be translated first, which might raise an exception.
    engine.ctl_exits_enabled(True)
    engine.ctl_set_exits([])
    try:
        engine.emu_start(image.entry, 0)
    except unicorn.UcError as error:
        hooks.cause = hooks.cause or str(error)

    block = ram.read(image.status_pa, image.status_size)
    registers = read_registers(engine)
    at = registers["rip"]
    if not hooks.cause:
        at -= 1  # RIP is past the HLT.
        if _code_at(image, ram, at)[:1] != HLT:
            hooks.cause = "stopped without a HLT"
    try:
        status = _parse_report(hooks, block)
        _check_registers(status, engine)
        context = _context(status)
        _check_image(image, status, context)
        _check_exceptions(image, status, hooks)
    except (BadInput, GuestError) as error:
        shown = " ".join(f"{name}={value:#x}" for name, value in registers.items() if value)
        where = _disassembled(image, ram, at)
        raise GuestError(
            f"{image.name}: {error}{hooks.last}; at {where}; {shown}, others 0"
        ) from error
    memory = Segments([(ram.start, ram.bytes)])
    return Booted(image=image, ram=ram, memory=memory, context=context, status=status)


def _parse_report(hooks: _Hooks, block: bytes) -> Status:
    """Return the guest's status report; `GuestError` if the run was stopped."""
    if hooks.cause:
        raise GuestError(f"{hooks.cause}; state: {describe_state(block)}")
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
    """Compare the status report with the processor's registers."""
    for name, reported, actual in (
        ("cr0", status.cr0, engine.reg_read(x86_const.UC_X86_REG_CR0)),
        ("cr3", status.cr3, engine.reg_read(x86_const.UC_X86_REG_CR3)),
        ("cr4", status.cr4, engine.reg_read(x86_const.UC_X86_REG_CR4)),
        ("efer", status.efer, engine.reg_read(x86_const.UC_X86_REG_MSR, MSR.EFER)),
    ):
        if actual != reported:
            raise GuestError(f"the guest reports {name} = {reported:#x}, but it is {actual:#x}")


def _check_image(image: GuestImage, status: Status, context: PagingContext) -> None:
    """Compare the status report with the image."""
    if context.levels != image.levels:
        raise GuestError(f"the guest runs with {context.levels} paging levels")
    if status.tables[0].pa != context.root:
        raise GuestError(f"the guest's first table is not the root at {context.root:#x}")
    if status.proof != image.proof:
        raise GuestError(f"the guest's proof is {status.proof:#x}, not {image.proof:#x}")


def _check_exceptions(image: GuestImage, status: Status, hooks: _Hooks) -> None:
    """Compare what the guest's handlers saw with the image, and with the processor."""
    check_taken(image.attempts, status.taken)
    for number, (reported, actual) in enumerate(zip(status.taken, hooks.taken, strict=True)):
        if _comparable(reported) != _comparable(actual):
            raise GuestError(
                f"exception {number}: the guest's handler saw {reported}, but it is {actual}"
            )


def _comparable(taken: Taken) -> Taken:
    """Return what handler and processor both know: not RF, which the delivery sets."""
    return replace(taken, rflags=taken.rflags & ~RFlags.RF, top=0)


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
