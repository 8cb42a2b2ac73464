import hashlib

import pytest
import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu import counting
from crosswalk.emu.cpu.cpuid import answer_cpuid
from crosswalk.emu.cpu.engine import open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.pc.results import Stop
from crosswalk.emu.pc.unanswered import Asked, Question, Target
from crosswalk.walker.errors import CrosswalkError
from tests.emu.cpu.assembly import EOI, PIC_UP
from tests.emu.cpu.machine import CODE, CODE3, DATA3, ROOT, UNMAPPED, Bare

SAY = "mov dx, 0x3f8\nmov al, 0x58\nout dx, al\n.byte 0xeb, 0\n"  # A jump to what follows.


def rip(bare):
    bare.cpu.load()
    return bare.cpu.rip


def test_a_halt_with_interrupts_off_is_the_end(bare):
    assert Stop.HALTED is bare.start("cli\nhlt").stop


def test_a_halt_with_no_interrupt_to_come_is_the_end(bare):
    assert Stop.HALTED is bare.start("hlt").stop


def test_the_timer_wakes_a_halted_guest_each_time(bare):
    bare.gate(0x30, at=CODE + 0x200)
    bare.write(CODE + 0x200, f"{EOI}inc rbx\niretq")
    ended = bare.start(f"{PIC_UP}\nagain: hlt\ncmp rbx, 5\njb again\ncli\nhlt", rbx=0)
    assert (Stop.HALTED, 5) == (ended.stop, bare.cpu.general(3))


def test_the_uart_wakes_a_halted_guest_before_the_timer_does(bare):
    bare.gate(0x34, at=CODE + 0x200)
    bare.write(CODE + 0x200, "mov dx, 0x3fa\nin al, dx\nmov bl, al\ncli\nhlt")
    source = f"{PIC_UP}\nmov dx, 0x3fc\nmov al, 8\nout dx, al\nmov dx, 0x3f9\nmov al, 2\nout dx, al"
    assert Stop.HALTED is bare.start(f"{source}\nhlt").stop
    assert 0x02 == bare.cpu.general(3) & 0xFF


def test_a_guest_that_does_nothing_but_halt_is_idle_and_one_that_sends_is_not(bare):
    bare.gate(0x30, at=CODE + 0x200)
    bare.write(CODE + 0x200, f"{EOI}iretq")
    bare.write(
        CODE, f"{PIC_UP}\nmov ebx, 20\nagain: {SAY} hlt\ndec ebx\njnz again\nidle: hlt\njmp idle"
    )
    with bare.cpu.changed():
        bare.cpu.enter(bare.segment(0x08), 0)
        bare.cpu.rip, bare.cpu.rsp = CODE, 0xF000
    bare.cpu.rflags = 0x202
    assert Stop.IDLE is bare.machine.run(seconds=20, idle_seconds=0.25).stop
    assert b"X" * 20 == bare.machine.console


def test_the_console_can_stop_the_guest_after_a_byte_and_it_goes_on(bare):
    bare.machine.on_console = bare.machine.stop
    assert Stop.ASKED is bare.start(f"{SAY}inc rbx\n{SAY}cli\nhlt", rbx=0).stop
    assert 0 == bare.cpu.general(3)
    assert Stop.ASKED is bare.machine.run(seconds=5).stop
    bare.cpu.load()
    assert 1 == bare.cpu.general(3)
    assert Stop.HALTED is bare.machine.run(seconds=5).stop
    assert b"XX" == bare.machine.console


def test_many_stops_in_a_row_lose_no_exception(bare):
    # Each start of the engine could leave an exception behind that spoils the guest's own.
    bare.machine.on_console = bare.machine.stop
    bare.start(f"{SAY * 5}ud2", rbx=0)
    for _ in range(4):
        assert Stop.ASKED is bare.machine.run(seconds=5).stop
    assert 6 == bare.vector


def test_a_reset_through_the_keyboard_controller_is_the_end(bare):
    assert Stop.RESET is bare.start("mov al, 0xfe\nout 0x64, al\ncli\nhlt").stop


@pytest.mark.parametrize("size", [64 << 20, 0xFEC0_0000, (4 << 30) + (64 << 20)])
def test_the_apics_hide_the_ram_in_their_place_and_none_above_4_gib(size):
    machine = Machine(Ram(0, size))
    read = machine.engine.mem_read
    assert 0x5_0014 == int.from_bytes(read(0xFEE0_0030, 4), "little")
    at = min(size, 0xFEC0_0000) - 8
    machine.ram.write(at, b"below it")
    assert b"below it" == read(at, 8)
    if size > 4 << 30:
        machine.ram.write(4 << 30, b"above it")
        assert b"above it" == read(4 << 30, 8)


@pytest.mark.parametrize(
    ("source", "stop"),
    [
        ("mov al, 6\nmov dx, 0xcf9\nout dx, al", Stop.RESET),
        ("mov al, 1\nout 0x92, al", Stop.RESET),
        ("mov ax, 0x2000\nmov dx, 0x604\nout dx, ax", Stop.OFF),
    ],
    ids=["0xcf9", "0x92", "ACPI"],
)
def test_a_guest_resets_the_machine_or_switches_it_off(bare, source, stop):
    assert stop is bare.start(f"{source}\n.byte 0xeb, 0\nud2").stop


def test_an_address_in_configuration_space_is_no_reset(bare):
    """Its second byte would be a write to 0xcf9: device 0, function 4."""
    source = "mov eax, 0x80000400\nmov dx, 0xcf8\nout dx, eax\nin eax, dx\ncli\nhlt"
    assert Stop.HALTED is bare.start(source).stop
    bare.cpu.load()
    assert 0xFFFF_FFFF == bare.cpu.general(0)


@pytest.mark.parametrize("value", [0, 1, 0x7F])
def test_a_guest_exits_by_the_port_for_it_with_a_status(value):
    bare = Bare(exit_port=0xF4)
    ended = bare.start(f"mov eax, {value}\nout 0xf4, eax\n.byte 0xeb, 0\nud2")
    assert (Stop.EXITED, value << 1 | 1) == (ended.stop, ended.status)


def test_the_exit_port_is_no_port_without_being_asked_for(bare):
    assert Stop.HALTED is bare.start("xor eax, eax\nout 0xf4, al\ncli\nhlt").stop
    assert [0xF4] == [asked.question.address for asked in bare.machine.unanswered]


def test_ports_that_nothing_has_are_counted_with_the_code_that_asked(bare):
    bare.start("mov ecx, 3\nagain: in al, 0x63\nloop again\nmov eax, 1\nout 0x84, ax\ncli\nhlt")
    read, written = bare.machine.unanswered
    assert Asked(Question(Target.PORT, 0x63, write=False, size=1), CODE + 5, 3) == read
    assert Asked(Question(Target.PORT, 0x84, write=True, size=2), CODE + 14, 1) == written


def test_memory_that_is_no_ram_is_counted_by_frames_and_directions(bare):
    bare.map(UNMAPPED, 0)
    bare.ram.words[(ROOT + 0x3000) // 8 + UNMAPPED // 0x1000] = 0x8000_0003
    bare.start("mov eax, [rbx+8]\nmov eax, [rbx]\nmov [rbx+4], eax\ncli\nhlt", rbx=UNMAPPED)
    found = [(asked.question, asked.count) for asked in bare.machine.unanswered]
    assert [
        (Question(Target.MEMORY, 0x8000_0008, write=False, size=4), 2),
        (Question(Target.MEMORY, 0x8000_0004, write=True, size=4), 1),
    ] == found


@pytest.mark.parametrize("every", [1000, 1001, 1002])
def test_a_guest_that_spins_gets_ticks_by_its_instructions(every):
    bare = Bare(tick_every=every)
    bare.gate(0x30, at=CODE + 0x200)
    bare.write(CODE + 0x200, f"{EOI}inc rbx\niretq")
    spin = "again: inc rcx\ncmp rbx, 3\njb again\ncli\nhlt"
    assert Stop.HALTED is bare.start(f"{PIC_UP}\n{spin}", rbx=0, rcx=0).stop
    assert 3 == bare.cpu.general(3)
    # Of three instructions a round; 15 go before.
    assert 3 * every - 9 == pytest.approx(3 * bare.cpu.general(1) + 15, abs=12)


def test_a_guest_that_hangs_is_ended_when_the_time_is_up(bare):
    bare.write(CODE, "jmp .")
    with bare.cpu.changed():
        bare.cpu.rip = CODE
    assert Stop.TIMEOUT is bare.machine.run(seconds=0.2).stop


def test_code_outside_ram_reads_as_ones_and_memory_there_too(bare):
    bare.map(UNMAPPED, 0)
    bare.ram.words[(ROOT + 0x3000) // 8 + UNMAPPED // 0x1000] = 0x8000_0003
    bare.start("mov rax, [rbx]\nmov [rbx], rcx\nmov rdx, [rbx]\ncli\nhlt", rbx=UNMAPPED, rcx=1)
    assert [(1 << 64) - 1] * 2 == [bare.cpu.general(0), bare.cpu.general(2)]


def test_physical_memory_that_nothing_models_is_where_the_emulator_stops(bare):
    bare.ram.words[(ROOT + 0x3000) // 8 + UNMAPPED // 0x1000] = 1 << 36 | 3
    ended = bare.start("mov rax, [rbx]\ncli\nhlt", rbx=UNMAPPED)
    assert (Stop.STUCK, CODE) == (ended.stop, bare.cpu.rip)
    assert "a read of physical address 0x1000000000, where nothing is" == ended.detail
    (asked,) = bare.machine.unanswered
    assert Question(Target.MEMORY, 1 << 36, write=False, size=8) == asked.question


def test_the_time_stamp_counter_is_the_machines_own(bare):
    bare.start("rdtsc\nmov ebx, eax\nrdtscp\nsub eax, ebx\ncli\nhlt")
    assert 2000 <= bare.cpu.general(0) < 3024


def test_rdtscp_also_tells_what_the_system_has_put_into_tsc_aux(bare):
    source = "mov ecx, 0xc0000103\nmov eax, 77\nxor edx, edx\nwrmsr\nrdtsc\nmov rbx, rcx\nrdtscp"
    bare.start(f"{source}\ncli\nhlt")
    assert (0xC000_0103, 77) == (bare.cpu.general(3), bare.cpu.general(1))


def test_cpuid_is_the_models_own():
    machine = Machine(Ram(0, 0x1000), model=x86.UC_CPU_X86_EPYC)
    machine.engine.reg_write(x86.UC_X86_REG_EAX, 7)
    machine.engine.reg_write(x86.UC_X86_REG_ECX, 0)
    pku = 1 << 3
    assert answer_cpuid(machine.engine)
    assert machine.engine.reg_read(x86.UC_X86_REG_ECX) & pku
    machine.engine.reg_write(x86.UC_X86_REG_EAX, 7)
    machine.engine.reg_write(x86.UC_X86_REG_ECX, 0)
    assert answer_cpuid(machine.engine, x86.UC_CPU_X86_EPYC)
    assert not machine.engine.reg_read(x86.UC_X86_REG_ECX) & pku


def test_random_numbers_are_hidden_and_everything_else_is_as_the_model_has_it(bare):
    bare.start("mov eax, 1\ncpuid\nmov r8, rcx\nmov eax, 7\nxor ecx, ecx\ncpuid\ncli\nhlt")
    assert (0, 0) == (bare.cpu.general(8) >> 30 & 1, bare.cpu.general(3) >> 18 & 1)
    assert (1, 1) == (bare.cpu.general(3) >> 7 & 1, bare.cpu.general(3) >> 20 & 1)  # SMEP, SMAP
    engine = open_engine()
    engine.reg_write(x86.UC_X86_REG_EAX, 0x8000_0008)
    assert not answer_cpuid(engine)


@pytest.mark.parametrize(
    ("model", "own"), [(x86.UC_CPU_X86_EPYC, True), (x86.UC_CPU_X86_ICELAKE_SERVER, False)]
)
def test_a_cpu_of_amds_says_that_no_store_is_bypassed(model, own):
    bare = Bare(model=model)
    bare.start("mov eax, 0x80000008\ncpuid\ncli\nhlt")
    assert own is bool(bare.cpu.general(3) >> 26 & 1)
    # The rest of the leaf is the model's: 40 physical address bits, and 48 linear ones or 57.
    assert (40, 48 if own else 57) == tuple(bare.cpu.general(0).to_bytes(8, "little")[:2])


@pytest.mark.parametrize(("cr4", "leaf", "bit"), [(1 << 18, 1, 27), (1 << 22, 7, 4)])
def test_cpuid_says_what_the_system_has_enabled(cr4, leaf, bit):
    engine = open_engine()
    answers = []
    for value in (0x20, 0x20 | cr4):
        engine.reg_write(x86.UC_X86_REG_CR4, value)
        engine.reg_write(x86.UC_X86_REG_RAX, leaf)
        engine.reg_write(x86.UC_X86_REG_RCX, 0)
        assert answer_cpuid(engine)
        answers.append(engine.reg_read(x86.UC_X86_REG_RCX) >> bit & 1)
    assert [0, 1] == answers


def test_cpuid_has_no_local_apic_while_it_is_switched_off(bare):
    switch = "mov ecx, 0x1b\nrdmsr\nxor ah, 8\nwrmsr\n"
    ask = "mov eax, 1\ncpuid\n"
    bare.start(f"{ask}mov r8, rdx\n{switch}{ask}mov r9, rdx\n{switch}{ask}cli\nhlt")
    assert [1, 0, 1] == [bare.cpu.general(number) >> 9 & 1 for number in (8, 9, 2)]


# One as a run begins, one in a handler, one behind an exception, and five in a loop.
LOADS = """
mov r9, cr3
mov r8, r9
mov cr3, r9
nop
ud2
mov cr3, r8
mov ecx, 5
again: mov cr3, r8
loop again
cli
hlt
"""


@pytest.fixture
def loading(bare):
    bare.gate(6, at=CODE + 0x200)
    bare.write(CODE + 0x200, "mov rax, cr3\nmov cr3, rax\nadd qword ptr [rsp], 2\niretq")
    bare.write(CODE, LOADS)
    with bare.cpu.changed():
        bare.cpu.enter(bare.segment(0x08), 0)
        bare.cpu.rip, bare.cpu.rsp = CODE, 0xF000
    return bare


def test_loads_of_cr3_are_counted_and_the_guest_stops_after_each_one(loading):
    counted = loading.machine.count_loads(loading.machine.stop)
    places_seen = []
    for number in range(1, 9):
        counted.wanted = number
        assert Stop.ASKED is loading.machine.run(seconds=5).stop
        assert number == counted.count
        places_seen.append(rip(loading))
    handler, loop = CODE + 0x206, places_seen[3]
    assert [CODE + 11, handler, CODE + 18, *[loop] * 5] == places_seen
    assert Stop.HALTED is loading.machine.run(seconds=5).stop
    assert 8 == counted.count


def test_loads_of_cr3_are_counted_without_a_stop(loading):
    counted = loading.machine.count_loads(loading.machine.stop)
    assert Stop.HALTED is loading.machine.run(seconds=5).stop
    assert 8 == counted.count


def test_a_load_of_cr3_before_the_stop_has_been_made(loading):
    new = 0x40000
    loading.ram.words[new // 8] = loading.ram.words[ROOT // 8]
    loading.write(CODE, f"mov rbx, {new}\nmov cr3, rbx\nmov rcx, cr3\ncli\nhlt")
    loading.machine.count_loads(loading.machine.stop).wanted = 1
    assert Stop.ASKED is loading.machine.run(seconds=5).stop
    assert new == loading.engine.reg_read(x86.UC_X86_REG_CR3)
    assert Stop.HALTED is loading.machine.run(seconds=5).stop
    loading.cpu.load()
    assert new == loading.cpu.general(1)


@pytest.mark.parametrize(("bound", "rcx"), [(1, 10), (2, 9), (3, 9), (4, 8), (20, 0), (21, 0)])
def test_a_run_ends_after_exactly_as_many_instructions(bare, bound, rcx):
    bare.write(CODE, "mov ecx, 10\nagain: dec ecx\njnz again\nnop\ncli\nhlt")
    with bare.cpu.changed():
        bare.cpu.rip = CODE
    assert Stop.COUNTED is bare.machine.run(seconds=5, instructions=bound).stop
    bare.cpu.load()
    assert (bound, rcx) == (bare.machine.instructions, bare.cpu.general(1))


def test_runs_with_a_bound_count_on_and_a_halt_is_an_instruction(bare):
    bare.write(CODE, "mov ecx, 10\nagain: dec ecx\njnz again\nnop\ncli\nhlt")
    with bare.cpu.changed():
        bare.cpu.rip = CODE
    assert Stop.COUNTED is bare.machine.run(seconds=5, instructions=7).stop
    assert Stop.HALTED is bare.machine.run(seconds=5, instructions=1000).stop
    assert 1 + 20 + 3 == bare.machine.instructions


def test_a_count_that_cannot_be_found_is_refused(monkeypatch):
    monkeypatch.setattr(counting, "_SEARCHED", 64)
    with pytest.raises(CrosswalkError, match="doesn't show how many instructions"):
        counting._place.__wrapped__()


def test_two_machines_with_the_same_guest_are_the_same_byte_for_byte():
    source = (
        f"{PIC_UP}\nmov rdi, 0x40000\nmov ecx, 50\nagain: rdtsc\nstosd\npush rcx\n"
        f"mov eax, 1\ncpuid\nmov eax, ecx\nstosd\npop rcx\nhlt\nloop again\ncli\nhlt"
    )
    digests = []
    for _ in range(2):
        bare = Bare()
        bare.gate(0x30, at=CODE + 0x200)
        bare.write(CODE + 0x200, f"{EOI}iretq")
        assert Stop.HALTED is bare.start(source).stop
        digests.append(hashlib.sha256(bare.ram.bytes).hexdigest())
    assert digests[0] == digests[1]


def test_an_error_of_a_hook_reaches_whoever_runs_the_machine(bare):
    def fail():
        raise ZeroDivisionError

    bare.machine.on_console = fail
    with pytest.raises(ZeroDivisionError):
        bare.start(f"{SAY}cli\nhlt")


def test_unicorn_still_cannot_hook_rdtsc_by_itself():
    with pytest.raises(unicorn.UcError):
        open_engine().hook_add(
            unicorn.UC_HOOK_INSN, lambda *_: None, None, 1, 0, x86.UC_X86_INS_RDTSC
        )


def test_what_a_callback_raises_ends_the_run_and_is_raised(bare):
    class RefusedError(Exception):
        pass

    def refuse():
        raise RefusedError

    bare.machine.on_console = refuse
    with pytest.raises(RefusedError):
        bare.start("mov dx, 0x3f8\nmov al, 65\nout dx, al\nhere: jmp here")
    assert b"A" == bytes(bare.machine.console)


def test_a_run_that_goes_nowhere_ends_when_its_time_is_up(bare):
    bare.write(CODE, "here: jmp here")
    with bare.cpu.changed():
        bare.cpu.rip = CODE
        bare.cpu.enter(bare.segment(0x08), 0)
    assert Stop.TIMEOUT is bare.machine.run(seconds=0.05).stop
    assert Stop.TIMEOUT is bare.machine.run(seconds=0.05).stop


@pytest.mark.parametrize(("smap", "vector"), [(0, 0x41), (1 << 21, 14)], ids=["off", "on"])
def test_an_iret_at_privilege_level_3_faults_under_smap_as_docs_machine_says(bare, smap, vector):
    # A processor reads the stack with the user's rights: another outcome means a better Unicorn.
    bare.engine.reg_write(x86.UC_X86_REG_CR4, 0x20 | smap)
    bare.gate(0x41, dpl=3)
    frame = f"push {DATA3}\nlea rax, [rsp + 8]\npush rax\npushfq\npush {CODE3}"
    bare.start(f"{frame}\nlea rax, [rip + 3]\npush rax\niretq\nint 0x41", user=True)
    assert vector == bare.machine.events[0].event.vector
