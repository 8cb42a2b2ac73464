"""Values of control registers and bases that the emulated CPU takes and a processor refuses.

No probe depends on them: paging is set up with values that a processor takes. A guest that expects
a #GP here doesn't get it. So with an instruction whose result is another one than a processor's.
Each entry has the instructions that show it.
"""

import struct
from dataclasses import dataclass

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.guest.assembler import assemble
from crosswalk.walker.architecture import CR4, MSR

__all__ = ["INSTRUCTION_DEPARTURES", "MACHINE_DEPARTURES", "MachineDeparture", "run_alone"]

NOT_CANONICAL = 0x8000_0000_0000_1234
_ROOT, _GDT, _OPERAND, _CODE, _STACK = 0x1000, 0x6000, 0x7000, 0x9000, 0xF000
_TASK = 0x20
_CONTROL = (
    (x86.UC_X86_REG_CR3, _ROOT),
    (x86.UC_X86_REG_CR4, CR4.FSGSBASE | CR4.PAE),
    (x86.UC_X86_REG_MSR, (MSR.EFER, 0xD00)),
    (x86.UC_X86_REG_CR0, 0x8001_0033),
    (x86.UC_X86_REG_GDTR, (0, _GDT, 0x2F, 0)),
    (x86.UC_X86_REG_RSP, _STACK),
)


@dataclass(frozen=True, slots=True)
class MachineDeparture:
    """An instruction that does something else than a processor's, at CPL 0 of 64-bit mode.

    `source` are the instructions, in Intel syntax; `taken` is what RAX holds behind them: the value
    that a processor refuses with #GP, read back, or else the result that differs.
    """

    id: str
    differs: str
    manual: str
    reason: str
    source: str
    taken: int


def run_alone(source: str) -> tuple[int | None, int]:
    """Run instructions at CPL 0 of 64-bit mode; return the vector of an exception, and RAX.

    The first MiB is mapped to itself, by 4-KiB pages, whether the tables are walked on four levels
    or on five; the 10 bytes at 0x7000 are an operand of LGDT
    and LIDT, and selector 0x20 is of a TSS, each with a base that isn't canonical.
    """
    ram = Ram(0, 1 << 20)
    for level in range(3):
        ram.words[(_ROOT + 0x1000 * level) // 8] = _ROOT + 0x1000 * (level + 1) | 3
    for page in range(256):
        # The last table of four levels; and frame 0, to which its first entry leads, of five.
        ram.words[(_ROOT + 0x3000) // 8 + page] = ram.words[page] = page << 12 | 3
    low, high = NOT_CANONICAL & 0xFFFF_FFFF, NOT_CANONICAL >> 32
    task = 0x67 | (low & 0xFF_FFFF) << 16 | 0x89 << 40 | low >> 24 << 56
    descriptors = (0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0, task, high)
    ram.write(_GDT, struct.pack("<6Q", *descriptors))
    ram.write(_OPERAND, struct.pack("<HQ", 0xFFF, NOT_CANONICAL))
    code = assemble("departure", source, bits=64, address=_CODE, symbols={})
    ram.write(_CODE, code)
    engine = open_engine(ram)
    for register, value in _CONTROL:
        engine.reg_write(register, value)
    raised: list[int] = []

    def note(_engine: unicorn.Uc, vector: int, _data: object) -> None:
        raised.append(vector)
        engine.emu_stop()

    engine.hook_add(unicorn.UC_HOOK_INTR, note)
    engine.emu_start(_CODE, _CODE + len(code))
    return raised[0] if raised else None, int(engine.reg_read(x86.UC_X86_REG_RAX))


def _mov(register: str, *, set_bits: int = 0, clear_bits: int = 0) -> str:
    lines = (
        f"mov rax, {register}",
        f"mov rbx, {set_bits:#x}",
        "or rax, rbx",
        f"mov rbx, {~clear_bits & (1 << 64) - 1:#x}",
        "and rax, rbx",
        f"mov {register}, rax",
        f"mov rax, {register}",
    )
    return "\n".join(lines)


def _wrmsr(number: int) -> str:
    return f"""\
mov ecx, {number:#x}
mov eax, {NOT_CANONICAL & 0xFFFF_FFFF:#x}
mov edx, {NOT_CANONICAL >> 32:#x}
wrmsr
xor eax, eax
xor edx, edx
rdmsr
shl rdx, 0x20
or rax, rdx"""


_MOV = 'Intel SDM vol. 2B, "MOV—Move to/from Control Registers"'
_WRMSR = 'Intel SDM vol. 2D, "WRMSR—Write to Model Specific Register"'
_TABLES = 'Intel SDM vol. 2A, "LGDT/LIDT—Load Global/Interrupt Descriptor Table Register"'
_UNCHECKED = "The value is kept without a look at it."
_BASES = (MSR.FS_BASE, MSR.GS_BASE, MSR.KERNEL_GS_BASE, MSR.LSTAR, MSR.CSTAR, MSR.SYSENTER_EIP)

MACHINE_DEPARTURES = (
    MachineDeparture(
        "mov-cr4-la57-in-64-bit-mode",
        "MOV to CR4 changes LA57 in 64-bit mode; the next fetch is translated by the other number "
        "of levels.",
        f"{_MOV}: #GP(0) if LA57 would change while IA-32e mode is active.",
        _UNCHECKED,
        _mov("cr4", set_bits=CR4.LA57),
        CR4.FSGSBASE | CR4.LA57 | CR4.PAE,
    ),
    MachineDeparture(
        "mov-cr4-reserved-bit",
        "MOV to CR4 sets bit 31, which is reserved.",
        f"{_MOV}: #GP(0) for a 1 in a reserved bit.",
        _UNCHECKED,
        _mov("cr4", set_bits=1 << 31),
        1 << 31 | 1 << 16 | 1 << 5,
    ),
    MachineDeparture(
        "mov-cr4-pcide-without-pcid",
        "MOV to CR4 sets PCIDE though CPUID.01H:ECX.PCID is 0.",
        'Intel SDM vol. 3A, "Control Registers": PCIDE is reserved on a processor without PCIDs; '
        "#GP(0).",
        _UNCHECKED,
        _mov("cr4", set_bits=CR4.PCIDE),
        CR4.PCIDE | CR4.FSGSBASE | CR4.PAE,
    ),
    MachineDeparture(
        "mov-cr3-reserved-bit",
        "MOV to CR3 sets bit 60, which is reserved.",
        f"{_MOV}: #GP(0) for a 1 in a reserved bit of CR3.",
        "The value is kept as it is; the walk leaves the high bits out.",
        _mov("cr3", set_bits=1 << 60),
        1 << 60 | _ROOT,
    ),
    MachineDeparture(
        "mov-cr0-nw-without-cd",
        "MOV to CR0 sets NW while CD is clear.",
        f"{_MOV}: #GP(0) for NW without CD.",
        "Caches aren't modelled, nor their bits looked at.",
        _mov("cr0", set_bits=1 << 29),
        1 << 29 | 0x8001_0033,
    ),
    MachineDeparture(
        "mov-cr0-pg-clear-in-64-bit-mode",
        "MOV to CR0 clears PG in 64-bit mode.",
        f"{_MOV}: #GP(0) in 64-bit mode if PG would be cleared.",
        "PG is looked at where long mode is entered, not where it is left.",
        _mov("cr0", clear_bits=1 << 31),
        0x0001_0033,
    ),
    MachineDeparture(
        "lgdt-base",
        "LGDT takes a base that isn't canonical.",
        f'{_TABLES}; vol. 3A, "Canonicality Checking"; AMD APM vol. 3, "LGDT": #GP(0).',
        "The base is kept as it is read.",
        f"mov rbx, {_OPERAND:#x}\nlgdt [rbx]\nsgdt [rbx]\nmov rax, [rbx + 2]",
        NOT_CANONICAL,
    ),
    MachineDeparture(
        "lidt-base",
        "LIDT takes a base that isn't canonical.",
        f'{_TABLES}; vol. 3A, "Canonicality Checking"; AMD APM vol. 3, "LIDT": #GP(0).',
        "The base is kept as it is read.",
        f"mov rbx, {_OPERAND:#x}\nlidt [rbx]\nsidt [rbx]\nmov rax, [rbx + 2]",
        NOT_CANONICAL,
    ),
    MachineDeparture(
        "ltr-base",
        "LTR takes a TSS whose base isn't canonical; TR holds its selector.",
        'Intel SDM vol. 2A, "LTR—Load Task Register"; vol. 3A, "Canonicality Checking": #GP.',
        "The base is put together from the descriptor, and not looked at.",
        f"mov eax, {_TASK:#x}\nltr ax\nxor eax, eax\nstr rax",
        _TASK,
    ),
    *(
        MachineDeparture(
            f"wrmsr-{base.name.lower().replace('_', '-')}",
            f"WRMSR puts an address that isn't canonical into IA32_{base.name}.",
            f"{_WRMSR}: #GP(0) for an address that isn't canonical.",
            "The value is kept as it is.",
            _wrmsr(base),
            NOT_CANONICAL,
        )
        for base in _BASES
    ),
    *(
        MachineDeparture(
            f"{name}-base",
            f"{name.upper()} takes a base that isn't canonical.",
            'Intel SDM vol. 2D, "WRFSBASE/WRGSBASE—Write FS/GS Segment Base": #GP(0) for an '
            "address that isn't canonical.",
            "The value is kept as it is.",
            f"mov rax, {NOT_CANONICAL:#x}\n{name} rax\n{name.replace('wr', 'rd')} rax",
            NOT_CANONICAL,
        )
        for name in ("wrfsbase", "wrgsbase")
    ),
)

_RF = 1 << 16
INSTRUCTION_DEPARTURES = (
    MachineDeparture(
        "pushf-stores-rf",
        "PUSHF stores the RF that an IRET has loaded, at least in the same block of code.",
        'Intel SDM vol. 2B, "PUSHF/PUSHFD/PUSHFQ—Push EFLAGS Register onto the Stack": VM and RF '
        "are not copied, and are 0 in what is stored.",
        "RF is kept until the next event, and PUSHF stores RFLAGS as they are.",
        f"""\
mov rbx, rsp
push 0x10
push rbx
push {_RF | 2:#x}
push 8
lea rbx, [rip + 3]
push rbx
iretq
pushfq
pop rax""",
        _RF | 2,
    ),
)
"""Instructions whose result is another one, without an exception on either side."""
