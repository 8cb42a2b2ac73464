"""A CPU brought to code of any size, and real mode: Intel SDM vol. 3B, "Interrupt and Exception
Handling" in real-address mode."""

import struct

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.delivery import Event, Kind, TripleFault, deliver
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.pc.results import Stop
from crosswalk.guest.assembler import assemble
from crosswalk.walker.architecture import CR0, CR4, EFER, RFlags
from crosswalk.walker.errors import BadInput

BASE, HANDLERS, STACK, FLAGS = 0x1_0000, 0x6000, 0x7000, 2 | RFlags.IF
ROOT = 0x4_0000


class Real:
    """A machine in real mode: code in segment 0x1000, each vector's handler halts."""

    def __init__(self):
        self.ram = Ram(0, 0x100000)
        self.machine = Machine(self.ram)
        self.cpu = self.machine.cpu
        for vector in range(256):
            self.ram.write(4 * vector, struct.pack("<HH", 4 * vector, HANDLERS >> 4))
            self.ram.write(HANDLERS + 4 * vector, b"\xfa\xf4")
        self.cpu.set_mode(16, cr0=0, code=BASE >> 4, data=0)
        self.machine.engine.reg_write(x86.UC_X86_REG_IDTR, (0, 0, 0x3FF, 0))

    def start(self, source, *, ip=0, sp=STACK, flags=FLAGS):
        self.ram.write(BASE + ip, assemble("t", source, bits=16, address=ip, symbols={}))
        with self.cpu.changed():
            self.cpu.rip, self.cpu.rsp = ip, sp
        self.cpu.rflags = flags
        ended = self.machine.run(seconds=10)
        self.cpu.load()
        return ended

    @property
    def halted(self):
        return (self.cpu.rip - 2) // 4

    def frame(self):
        at = self.cpu.segment("ss").base + (self.cpu.rsp & 0xFFFF)
        return struct.unpack("<HHH", self.ram.read(at, 6))


@pytest.fixture
def real():
    return Real()


@pytest.mark.parametrize(("ip", "source", "back"), [(0, "int 0x21", 2), (0x80, "nop\nint3", 0x82)])
def test_an_int_in_real_mode_goes_through_the_ivt(real, ip, source, back):
    ended = real.start(source, ip=ip)
    assert (Stop.HALTED, 3 if "int3" in source else 0x21) == (ended.stop, real.halted)
    assert (back, BASE >> 4, FLAGS) == real.frame()
    assert (HANDLERS, HANDLERS >> 4) == real.cpu.segment("cs")[1::-1]
    assert 0 == real.cpu.rflags & RFlags.IF


def test_iret_goes_back_in_real_mode(real):
    real.ram.write(HANDLERS + 4 * 0x21, b"\x42\xcf")  # inc dx; iret
    real.start("xor dx, dx\nmov cx, 100\nagain: int 0x21\nloop again\nint 0x22")
    assert (0x22, 100) == (real.halted, real.cpu.general(2) & 0xFFFF)


def test_a_fault_in_real_mode_pushes_no_error_code(real):
    real.start("nop\nud2")
    assert 6 == real.halted
    assert (1, BASE >> 4) == real.frame()[:2]
    assert STACK - 6 == real.cpu.rsp


def test_a_vector_beyond_the_ivt_is_a_general_protection_fault(real):
    real.machine.engine.reg_write(x86.UC_X86_REG_IDTR, (0, 0, 4 * 0x20 - 1, 0))
    real.start("int 0x21")
    assert 13 == real.halted
    assert (0, BASE >> 4) == real.frame()[:2]


def test_without_an_ivt_the_cpu_shuts_down(real):
    real.machine.engine.reg_write(x86.UC_X86_REG_IDTR, (0, 0, 0, 0))
    with pytest.raises(TripleFault, match=r"13 \(#GP\), 8 \(#DF\), 13 \(#GP\)"):
        deliver(real.cpu, Event(6, Kind.EXCEPTION))


def test_a_stack_in_real_mode_wraps_from_one_word_to_the_next(real):
    real.start("int 0x21", sp=4)
    assert 0x21 == real.halted
    assert 0xFFFE == real.cpu.rsp & 0xFFFF
    assert 2 == struct.unpack("<H", real.ram.read(0xFFFE, 2))[0]


def test_one_machine_goes_from_real_mode_to_64_bit_code(real):
    ram = real.ram
    for level in range(3):
        ram.words[(ROOT + 0x1000 * level) // 8] = ROOT + 0x1000 * (level + 1) | 3
    for page in range(256):
        ram.words[(ROOT + 0x3000) // 8 + page] = page << 12 | 3
    descriptors = (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00AF_9B00_0000_FFFF)
    ram.write(0x5000, struct.pack("<4Q", *descriptors))
    real.machine.engine.reg_write(x86.UC_X86_REG_GDTR, (0, 0x5000, 0x1F, 0))
    protected = (
        f"mov eax, 0x20\nmov cr4, eax\nmov eax, {ROOT:#x}\nmov cr3, eax\n"
        "mov ecx, 0xC0000080\nmov eax, 0x100\nxor edx, edx\nwrmsr\n"
        "mov eax, cr0\nbts eax, 31\nmov cr0, eax\nljmp 0x18:0x9000"
    )
    ram.write(0x8000, assemble("t", protected, bits=32, address=0x8000, symbols={}))
    long = "movabs rax, 0x1122334455667788\nmov rbx, rax\nhlt"
    ram.write(0x9000, assemble("t", long, bits=64, address=0x9000, symbols={}))
    far_jump = b"\x66\xea" + struct.pack("<IH", 0x8000, 8)
    source = "mov eax, cr0\nor al, 1\nmov cr0, eax"
    code = assemble("t", source, bits=16, address=0, symbols={})
    ram.write(BASE, code + far_jump)
    with real.cpu.changed():
        real.cpu.rip = 0
    real.cpu.rflags = 2
    assert Stop.HALTED is real.machine.run(seconds=10).stop
    real.cpu.load()
    assert (64, 0x1122_3344_5566_7788) == (real.cpu.bits, real.cpu.general(3))
    assert EFER.LME | EFER.LMA == real.cpu.efer


MODES = {
    "real": (16, {"cr0": 0}, (16, False, 0)),
    "protected": (32, {"cr0": int(CR0.PE)}, (32, False, 0)),
    "16-bit protected": (16, {"cr0": int(CR0.PE)}, (16, False, 0)),
    "64-bit": (
        64,
        {"cr0": int(CR0.PE | CR0.PG), "cr3": ROOT, "cr4": int(CR4.PAE), "efer": int(EFER.LME)},
        (64, True, EFER.LME | EFER.LMA),
    ),
    "compatibility": (
        32,
        {"cr0": int(CR0.PE | CR0.PG), "cr3": ROOT, "cr4": int(CR4.PAE), "efer": int(EFER.LME)},
        (32, True, EFER.LME | EFER.LMA),
    ),
    "LME, and no paging": (32, {"cr0": int(CR0.PE), "efer": int(EFER.LME)}, (32, False, EFER.LME)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("before", MODES)
def test_a_cpu_comes_from_any_mode_to_any_other(real, mode, before):
    cpu = real.cpu
    for name in (before, mode):
        bits, registers, _ = MODES[name]
        cpu.set_mode(bits, **registers)
    cpu.load()
    assert MODES[mode][2] == (cpu.bits, cpu.long_mode, cpu.efer)
    assert bool(registers["cr0"] & CR0.PE) == cpu.protected
    assert (registers["cr0"] | CR0.ET, registers.get("cr3", 0), registers.get("cr4", 0)) == (
        cpu.cr0,
        cpu.cr3,
        cpu.cr4,
    )
    assert (0, 2) == (cpu.cpl, cpu.rflags)


@pytest.mark.parametrize(
    ("bits", "registers"),
    [
        (8, {}),
        (32, {"cr0": 0}),
        (64, {"cr0": int(CR0.PE)}),
        (64, {"cr0": int(CR0.PE | CR0.PG), "efer": int(EFER.LME)}),
        (32, {"cr0": int(CR0.PG)}),
    ],
)
def test_a_mode_that_no_processor_has_is_refused(real, bits, registers):
    with pytest.raises(BadInput, match=f"no {bits}-bit mode"):
        real.cpu.set_mode(bits, **registers)
