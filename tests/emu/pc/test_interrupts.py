"""When interrupts reach the CPU."""

import pytest

from crosswalk.emu.pc.results import Stop
from tests.emu.cpu.assembly import EOI, PIC_UP
from tests.emu.cpu.machine import CODE, ROOT, UNMAPPED, Bare
from tests.emu.pc.messages import BLOCK, END, HANDLER, KEY, map_lapic

RAX, RBX, RCX, RSI = 0, 3, 1, 6
TICK = 0x30

# The 8259s, and a tick of 1 ms.
UP = f"{PIC_UP}\nmov al, 0x34\nout 0x43, al\nmov al, 0xa9\nout 0x40, al\nmov al, 4\nout 0x40, al"
WAIT = "mov ecx, 1100\nagain: in al, 0x61\nloop again"

# Counts in RBX, and notes in RSI where it came from.
COUNT = f"{EOI}inc rbx\nmov rsi, [rsp]\niretq"


@pytest.fixture
def ticking(bare):
    """A machine whose timer's handler counts."""
    bare.gate(TICK, at=HANDLER)
    bare.write(HANDLER, COUNT)
    return bare


def run(bare, source, **registers):
    """Run until the guest halts for good; return the registers."""
    registers = {"rbx": 0, "rcx": 0, "rsi": 0} | registers
    assert Stop.HALTED is bare.start(source, **registers).stop
    return [bare.cpu.general(number) for number in range(16)]


@pytest.mark.parametrize(
    "asking",
    [
        "in al, 0x61",
        "out 0x80, al",
        "rdtsc",
        "int 0x50",
        "mov eax, [r15 + 0x20]",
        "mov [r15 + 0x80], r14d",
    ],
    ids=["IN", "OUT", "RDTSC", "exception", "device read", "device write"],
)
def test_a_guest_that_never_halts_is_interrupted_where_it_asks_the_host(ticking, asking):
    map_lapic(ticking)
    ticking.gate(0x50, kind=15, at=HANDLER + 0x100)  # A trap gate: IF stays set.
    ticking.write(HANDLER + 0x100, "iretq")
    wait = f"again: inc rcx\n{asking}\ncmp rbx, 2\njb again\ncli\nhlt"
    found = run(ticking, f"{UP}\n{wait}", r14=0, r15=UNMAPPED)
    # Two ticks, by at least 1 µs each round.
    assert 2 == found[RBX]
    assert 1200 < found[RCX] < 2100


def test_a_guest_that_asks_nothing_is_not_interrupted(ticking):
    spin = "again: inc rcx\ncmp rcx, 20000000\njb again\ncli\nhlt"
    assert 0 == run(ticking, f"{UP}\n{spin}")[RBX]


def test_the_instruction_that_asks_is_completed_first(ticking):
    # The counter goes on until a tick comes: the handler sees what the reading before it gave.
    ticking.write(HANDLER, f"{EOI}inc rbx\nmov rsi, [rsp]\nmov r14, r13\niretq")
    source = f"{UP}\nagain: inc rcx\nrdtsc\nmov r13, rcx\ntest rbx, rbx\njz again\ncli\nhlt"
    found = run(ticking, source, r13=0, r14=0)
    assert (1, found[RCX] - 1) == (found[RBX], found[14])


def test_while_interrupts_are_off_none_comes_and_it_waits(ticking):
    source = f"{UP}\ncli\n{WAIT}\nmov r12, rbx\nsti\nnop\nin al, 0x61\n{BLOCK}\ncli\nhlt"
    found = run(ticking, source, r12=9)
    assert (0, 1) == (found[12], found[RBX])


def test_the_instruction_behind_an_sti_is_not_interrupted(ticking):
    # A tick is due; each round asks in the shadow of an STI, and turns interrupts off again.
    rounds = "mov ecx, 50\nmore: sti\nin al, 0x61\ncli\nloop more"
    found = run(ticking, f"{UP}\ncli\n{WAIT}\n{rounds}\nhlt")
    assert found[RBX] in (0, 1)
    if found[RBX]:
        # Behind the IN at the earliest, and that was before the CLI.
        assert 0xFA == ticking.ram.read(found[RSI], 1)[0]


def test_a_halt_in_the_block_of_code_that_asks_is_still_a_halt(ticking):
    # OUT and HLT are one block; the UART's interrupt comes with the OUT, and is lost with nothing.
    ticking.gate(0x34, at=HANDLER)
    ticking.write(HANDLER, f"{EOI}mov dx, 0x3fa\nin al, dx\ninc rbx\nmov rsi, [rsp]\niretq")
    uart = "mov dx, 0x3fc\nmov al, 8\nout dx, al\nmov dx, 0x3f9\nmov al, 2\ncli\nout dx, al"
    found = run(
        ticking,
        f"{UP}\nmov al, 1\nout 0x21, al\n{uart}\nmov dx, 0x3fa\nin al, dx\nsti\n"
        "mov dx, 0x3f8\nmov al, 65\nout dx, al\nhlt\ninc rcx\ncli\nhlt",
    )
    assert (1, 1) == (found[RBX], found[RCX])
    assert 0xF4 == ticking.ram.read(found[RSI] - 1, 1)[0]  # It woke the CPU behind the HLT.


def test_a_jump_to_what_follows_a_halt_is_none(ticking):
    # At `target` the CPU stands behind a HLT's byte when the run is interrupted, time and again.
    source = f"{UP}\njmp target\nhlt\ntarget: inc rcx\nin al, 0x61\ncmp rbx, 3\njb target\ncli\nhlt"
    found = run(ticking, source)
    assert 3 == found[RBX]
    assert found[RCX] > 2000


def test_a_stop_on_request_in_a_block_that_halts_goes_on_halted(ticking):
    ticking.machine.on_console = ticking.machine.stop
    say = "mov dx, 0x3f8\nmov al, 65\nout dx, al\nhlt\nmov rcx, rbx\ncli\nhlt"
    assert Stop.ASKED is ticking.start(f"{UP}\n{say}", rbx=0, rcx=9).stop
    assert Stop.HALTED is ticking.machine.run(seconds=5).stop
    ticking.cpu.load()
    assert (1, 1) == (ticking.cpu.general(RBX), ticking.cpu.general(RCX))


SEND = f"mov eax, {0x40000 | KEY}\nlea rdi, [r15 + 0x300]"
SPIN = "spin: inc rcx\ncmp rcx, 1000\njae over\ntest rbx, rbx\njz spin\nover: cli\nhlt"


@pytest.fixture
def sending(bare):
    """A machine with the local APIC's page, whose handler counts messages."""
    map_lapic(bare)
    bare.gate(KEY, at=HANDLER)
    bare.write(HANDLER, f"{END}\ninc rbx\nmov rsi, [rsp]\niretq")
    return bare


@pytest.mark.parametrize("before", ["", "cli\nsti\n"], ids=["", "behind an STI"])
@pytest.mark.parametrize(
    "store", [f"mov dword ptr [rdi], {0x40000 | KEY}", "mov [rdi], eax"], ids=["constant", "EAX"]
)
def test_a_message_to_itself_interrupts_behind_the_store(sending, before, store):
    code = f"{SEND}\n{before}{store}\n"
    length = len(sending.write(CODE, code))
    found = run(sending, f"{code}{SPIN}", r15=UNMAPPED)
    # Though the loop asks nothing.
    assert (1, 1, CODE + length) == (found[RBX], found[RCX], found[RSI])


@pytest.mark.parametrize("store", ["xchg [rdi], eax", "stosd"])
@pytest.mark.parametrize("asking", ["in al, 0x61", "mov eax, [r15 + 0x20]"], ids=["port", "device"])
def test_a_message_by_another_store_interrupts_once_when_the_host_is_asked_next(
    sending, store, asking
):
    source = f"{SEND}\n{store}\n{asking}\n{BLOCK}\nmov rcx, rbx\ncli\nhlt"
    found = run(sending, source, r15=UNMAPPED)
    assert (1, 1) == (found[RBX], found[RCX])


def test_a_store_before_which_the_run_ends_is_done_once(sending):
    # Of two messages with one vector, the second comes while the first is in service.
    source = f"{SEND}\nmov [rdi], eax\nmov [rdi], eax\nmov rcx, rbx\ncli\nhlt"
    found = run(sending, source, r15=UNMAPPED)
    assert (2, 2) == (found[RBX], found[RCX])


def test_a_message_with_interrupts_off_waits(sending):
    source = f"cli\n{SEND}\nmov [rdi], eax\nmov r12, rbx\nsti\nin al, 0x61\n{BLOCK}\ncli\nhlt"
    found = run(sending, source, r12=9, r15=UNMAPPED)
    assert (0, 1) == (found[12], found[RBX])


def test_an_nmi_to_itself_comes_with_interrupts_off_and_once(ticking):
    map_lapic(ticking)
    ticking.gate(2, at=HANDLER)
    ticking.write(HANDLER, "inc rbx\niretq")
    asks = f"in al, 0x61\n{BLOCK}\n"
    source = f"cli\nmov dword ptr [r15 + 0x300], {0x40000 | 4 << 8}\n{asks * 3}mov rcx, rbx\nhlt"
    found = run(ticking, source, r15=UNMAPPED)
    assert (1, 1) == (found[RBX], found[RCX])


def test_an_nmi_wakes_a_cpu_that_halts_with_interrupts_off(ticking):
    map_lapic(ticking)
    ticking.gate(2, at=HANDLER)
    ticking.write(HANDLER, "inc rbx\niretq")
    source = f"cli\nmov dword ptr [r15 + 0x300], {0x40000 | 4 << 8}\nhlt\nmov rcx, rbx\ncli\nhlt"
    found = run(ticking, source, r15=UNMAPPED)
    assert (1, 1) == (found[RBX], found[RCX])


def test_an_access_to_a_device_that_gives_way_is_made_once_behind_the_interrupt(ticking):
    # A message to itself is on its way when a second one is sent: both arrive, the second access
    # is neither lost nor made twice.
    map_lapic(ticking)
    ticking.gate(KEY, at=HANDLER)
    ticking.write(HANDLER, f"{END}\ninc rbx\niretq")
    send = f"inc rcx\nmov dword ptr [r15 + 0x300], {0x40000 | KEY}"
    found = run(
        ticking,
        f"{send}\n{send}\nin al, 0x61\n{BLOCK}\nin al, 0x61\n{BLOCK}\ncli\nhlt",
        r15=UNMAPPED,
    )
    assert (2, 2) == (found[RBX], found[RCX])


def test_an_access_in_the_shadow_of_an_sti_does_not_give_way(ticking):
    map_lapic(ticking)
    ticking.gate(KEY, at=HANDLER)
    ticking.write(HANDLER, f"{END}\ninc rbx\nmov rsi, [rsp]\niretq")
    found = run(
        ticking,
        f"cli\nmov dword ptr [r15 + 0x300], {0x40000 | KEY}\nsti\nmov eax, [r15 + 0x20]\n"
        f"{BLOCK}\nhlt\ncli\nhlt",
        r15=UNMAPPED,
    )
    assert 1 == found[RBX]
    assert 0xF4 == ticking.ram.read(found[RSI] - 1, 1)[0]  # It came with the HLT.


def test_the_task_priority_holds_an_interrupt_back(ticking):
    map_lapic(ticking)
    ticking.gate(KEY, at=HANDLER)
    ticking.write(HANDLER, f"{END}\ninc rbx\niretq")
    source = (
        f"mov dword ptr [r15 + 0x80], 0x40\nmov dword ptr [r15 + 0x300], {0x40000 | KEY}\n"
        f"in al, 0x61\n{BLOCK}\nmov rcx, rbx\nmov dword ptr [r15 + 0x80], 0x30\n"
        f"in al, 0x61\n{BLOCK}\nmov rsi, rbx\ncli\nhlt"
    )
    found = run(ticking, source, r15=UNMAPPED, rsi=9, rcx=9)
    assert (0, 1) == (found[RCX], found[RSI])


def test_the_local_timer_wakes_a_halted_guest_and_time_passes_until_then(ticking):
    map_lapic(ticking)
    ticking.gate(KEY, at=HANDLER)
    ticking.write(HANDLER, f"{END}\ninc rbx\niretq")
    stamp = "rdtsc\nshl rdx, 32\nor rax, rdx"
    source = (
        f"{stamp}\nmov r13, rax\nmov dword ptr [r15 + 0x3e0], 11\n"
        f"mov dword ptr [r15 + 0x320], {KEY}\nmov dword ptr [r15 + 0x380], 5000000\n"
        f"hlt\n{stamp}\nsub rax, r13\ncli\nhlt"
    )
    found = run(ticking, source, r13=0, r15=UNMAPPED)
    assert 1 == found[RBX]
    assert pytest.approx(10_000_000, rel=0.01) == found[RAX]  # 5 ms at 2 GHz.


def test_a_line_through_the_io_apic_reaches_the_cpu(ticking):
    io_apic = UNMAPPED + 0x1000
    map_lapic(ticking)
    ticking.ram.words[(ROOT + 0x3000) // 8 + io_apic // 0x1000] = 0xFEC0_0000 | 3
    ticking.gate(KEY, at=HANDLER)
    ticking.write(HANDLER, f"{END}\ninc rbx\niretq")
    source = (
        "mov al, 0xff\nout 0x21, al\n"
        f"mov dword ptr [r14], {0x10 + 2 * 2}\nmov dword ptr [r14 + 0x10], {KEY}\n"
        "again: hlt\ncmp rbx, 3\njb again\ncli\nhlt"
    )
    assert 3 == run(ticking, source, r14=io_apic, r15=UNMAPPED)[RBX]


def test_a_tick_that_is_never_ended_is_the_last_one_and_the_machine_halts_for_good(bare):
    bare.gate(TICK, at=HANDLER)
    bare.write(HANDLER, "inc rbx\niretq")
    assert 1 == run(bare, f"{UP}\nagain: hlt\njmp again")[RBX]


def test_a_guest_that_spins_without_asking_gets_a_tick_by_instructions_that_halts_too():
    bare = Bare(tick_every=5000)
    bare.gate(TICK, at=HANDLER)
    bare.write(HANDLER, COUNT)
    source = f"{UP}\nspin: inc rcx\ncmp rbx, 2\njb spin\nhlt\ncli\nhlt"
    found = run(bare, source)
    assert 3 == found[RBX]
    assert pytest.approx(2 * 5000 / 3, abs=30) == found[RCX]
