"""A guest's own hypervisor: VMRUN, and what #VMEXIT does of it."""

import struct
from dataclasses import replace

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Segment, core_state, paging_context
from crosswalk.emu.cpu.events import Kind
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.guest_mode import guest_mode, interrupts_enabled
from crosswalk.emu.cpu.svm.vmcb import VMCB_FIELDS, General
from crosswalk.emu.pc.results import Stop
from crosswalk.walker.architecture import EFER, MSR, Vector
from tests.emu.cpu.assembly import PIC_UP
from tests.emu.cpu.svm.own_host import (
    CODE,
    DATA,
    FLAT,
    GDT,
    GUEST,
    GUEST_TABLES,
    HANDLER,
    HANDLERS,
    HOST,
    HOST_STACK,
    IDT,
    MAPS,
    NESTED,
    SKIP,
    SOURCE,
    STACK,
    VMCB,
    VMMCALL,
    OwnHost,
    handler_of,
)

FINAL, TABLE = 1 << 32, 1 << 33
LEAF_OF_DATA = GUEST_TABLES + 0x3000 + 8 * (DATA >> 12)
VALID, EXCEPTION, HAS_ERROR = 1 << 31, 3 << 8, 1 << 11
HLT = "hlt\n"
READ = f"mov rbx, {DATA:#x}\nmov rax, [rbx]\n"
WRITE = f"mov rbx, {DATA:#x}\nmov [rbx], rax\n"
FETCH = f"mov rbx, {DATA:#x}\njmp rbx\n"
INVALID = (1 << 64) - 1
WIDTHS = {"Q": "rax", "I": "eax", "H": "ax", "B": "al"}


def test_a_hypercall_is_an_exit_and_the_host_goes_on_behind_its_vmrun():
    host = OwnHost(VMMCALL * 3, runs=3)
    exits = host.run()
    assert Stop.HALTED is host.ended.stop
    assert [(0x81, GUEST + 3 * at) for at in range(3)] == [(e.code, e.rip) for e in exits]
    assert {(VMCB, HOST_STACK, 0)} == {(e.rax, e.rsp, e.event) for e in exits}
    assert {ExitCode.VMMCALL: 3} == host.machine.hypervisor.exits


def test_the_guests_state_is_saved_and_the_hosts_comes_back():
    code = f"mov rax, 0x1122334455667788\nmov rbx, 0x99\nmov rsp, {DATA:#x}\nstd\nstc\n"
    host = OwnHost(f"{code}mov rcx, 0x77000\nmov cr2, rcx\n{VMMCALL}")
    host.run()
    read = host.machine.engine.reg_read
    wanted = {
        "rax": 0x1122_3344_5566_7788,
        "rsp": DATA,
        "rflags": 0x403,
        "cr2": 0x7_7000,
        "cr0": 0x8001_0033,
        "cr3": GUEST_TABLES,
        "cr4": 0x20,
        "efer": 0x1D00,
        "cpl": 0,
        "dr7": 0x400,
    }
    assert wanted == {name: host.vmcb[name] for name in wanted}
    assert (0x10000, 0x1D00) == (read(x86.UC_X86_REG_CR3), host.msr(MSR.EFER))
    assert 0 == host.cpu.rflags & 0x400
    assert 0x99 == host.cpu.general(GENERAL.index("rbx"))
    assert Segment(CODE, 0, 0xFFFF_FFFF, 0x00A0_9B00) == host.vmcb.segment("cs")
    assert 0x10 == host.cpu.segment("cs").selector


def test_global_interrupts_are_off_after_an_exit():
    host = OwnHost(VMMCALL)
    assert interrupts_enabled(host.cpu, rflags_if=True)
    host.run()
    assert not interrupts_enabled(host.cpu, rflags_if=True)


@pytest.mark.parametrize(
    ("code", "page", "entry", "info"),
    [
        (WRITE, DATA, DATA | 5, FINAL | 0x7),
        (WRITE, DATA, 0, FINAL | 0x6),
        (READ, DATA, 0, FINAL | 0x4),
        (READ, DATA, DATA | 3, FINAL | 0x5),
        (READ, DATA, DATA | 7 | 1 << 51, FINAL | 0xD),
        (FETCH, DATA, 0, FINAL | 0x14),
        (FETCH, DATA, DATA | 7 | 1 << 63, FINAL | 0x15),
        (f"mov rsp, {DATA + 16:#x}\npush rax\n", DATA, 0, FINAL | 0x6),
        (f"mov rdi, {DATA:#x}\nmov rcx, 2\nrep stosq\n", DATA, DATA | 5, FINAL | 0x7),
        (f"mov rbx, {DATA - 4:#x}\nmov [rbx], rax\n", DATA, 0, FINAL | 0x6),
    ],
)
def test_a_nested_page_fault_tells_address_and_cause(code, page, entry, info):
    host = OwnHost(code)
    host.nested(page, entry)
    (exit_,) = host.run()
    assert (0x400, info, page) == (exit_.code, exit_.info_1, exit_.info_2 & ~0xFFF)


@pytest.mark.parametrize("access", [READ, WRITE, FETCH])
@pytest.mark.parametrize(("rights", "cause"), [(0, 0x6), (5, 0x7)])
def test_a_nested_fault_of_the_guests_own_table_is_a_users_write(access, rights, cause):
    host = OwnHost(access)
    table = GUEST_TABLES + 0x3000 + 0x1000
    host.ram.words[(GUEST_TABLES + 0x2000) // 8 + 1] = table + 0x4000 | 7  # Another table for DATA.
    host.ram.write(table + 0x4000, host.ram.read(table, 0x1000))
    host.nested(table + 0x4000, table + 0x4000 | rights if rights else 0)
    # The guest's code is mapped by the same table: the fetch of its first instruction faults.
    (exit_,) = host.run()
    place = table + 0x4000 + 8 * (GUEST >> 12 & 511)
    assert (0x400, TABLE | cause, place, GUEST) == (
        exit_.code,
        exit_.info_1,
        exit_.info_2,
        exit_.rip,
    )


@pytest.mark.parametrize("access", [READ, WRITE])
def test_a_nested_fault_of_a_table_that_an_operand_needs_is_the_tables(access):
    far, table = 0x60_0000, 0x70_0000
    host = OwnHost(access.replace(hex(DATA), hex(far)))
    host.ram.words[(GUEST_TABLES + 0x2000) // 8 + 3] = table | 7
    host.nested(table, table | 5)
    (exit_,) = host.run()
    assert (0x400, TABLE | 7, table) == (exit_.code, exit_.info_1, exit_.info_2)


def test_a_write_to_a_table_of_the_guests_is_no_fault_of_the_walk():
    table = 0x70_0000
    host = OwnHost(f"mov rbx, {table:#x}\nmov [rbx], rax\n")
    host.ram.words[(GUEST_TABLES + 0x2000) // 8 + 2] = table | 7  # Of addresses not in use.
    host.nested(table, table | 5)
    (exit_,) = host.run()
    assert (0x400, FINAL | 7, table) == (exit_.code, exit_.info_1, exit_.info_2)


def test_a_guest_goes_on_where_its_host_repairs_the_nested_tables():
    repair = f"""
        mov rax, {DATA | 7:#x}
        mov rdx, {NESTED + 0x3000 + 8 * (DATA >> 12):#x}
        mov [rdx], rax
    """
    host = OwnHost(f"mov eax, 0x55\n{WRITE}{VMMCALL}", each=repair, runs=2)
    host.nested(DATA, DATA | 5)
    assert [0x400, 0x81] == [each.code for each in host.run()]
    assert 0x55 == int.from_bytes(host.ram.read(DATA, 8), "little")


def test_without_intercepts_the_guest_takes_its_own_exceptions():
    host = OwnHost("ud2\n")
    (exit_,) = host.run()
    assert (0x81, Vector.UD) == (exit_.code, handler_of(exit_.rip))
    frame = struct.unpack("<5Q", host.ram.read(host.vmcb["rsp"], 40))
    assert (GUEST, CODE, 0x1_0002, STACK, FLAT) == frame


def test_an_intercepted_page_fault_leaves_cr2_alone():
    host = OwnHost(f"mov rax, 0x1000\nmov cr2, rax\n{WRITE}")
    host.mapped(DATA, DATA | 5)
    host.vmcb["exceptions"] = 1 << Vector.PF
    (exit_,) = host.run()
    assert (0x4E, 0x3, DATA) == (exit_.code, exit_.info_1, exit_.info_2)
    assert 0x1000 == host.vmcb["cr2"]


@pytest.mark.parametrize("rights", [0, 5])
def test_a_nested_fault_in_the_course_of_a_delivery_tells_of_the_event(rights):
    host = OwnHost(f"mov rsp, {DATA + 0x1000:#x}\nmov rbx, 0x7f0000\nmov rax, [rbx]\n")
    host.mapped(0x7F_0000, 0)
    host.nested(DATA, DATA | rights if rights else 0)
    (exit_,) = host.run()
    event = VALID | EXCEPTION | HAS_ERROR | Vector.PF  # Its error code is 0.
    assert (0x400, FINAL | (0x7 if rights else 0x6)) == (exit_.code, exit_.info_1)
    assert (DATA + 0xFF8, event) == (exit_.info_2, exit_.event)
    assert GUEST + 14 == exit_.rip
    assert DATA + 0x1000 == host.vmcb["rsp"]
    assert 0 == host.vmcb["cpl"]


INJECTED = pytest.mark.parametrize(
    ("word", "vector", "error"),
    [
        pytest.param(0x30, 0x30, None, id="interrupt"),
        pytest.param(EXCEPTION | HAS_ERROR | Vector.GP | 0x58 << 32, Vector.GP, 0x58, id="#GP"),
        pytest.param(EXCEPTION | Vector.DE, Vector.DE, None, id="#DE"),
        pytest.param(2 << 8 | 2, 2, None, id="NMI"),
        pytest.param(4 << 8 | 0x80, 0x80, None, id="INT 0x80"),
    ],
)


@INJECTED
def test_the_first_vmrun_injects_an_event(word, vector, error):
    host = OwnHost(HLT)
    host.vmcb["entry_event"] = VALID | word
    (exit_,) = host.run()
    assert (0x81, vector) == (exit_.code, handler_of(exit_.rip))
    assert 0 == host.vmcb["entry_event"] & VALID
    frame = struct.unpack("<2Q", host.ram.read(host.vmcb["rsp"], 16))
    assert ((GUEST, CODE) if error is None else (error, GUEST)) == frame


def inject(word):
    return f"mov rax, {VALID | word:#x}\nmov [r13 + 0xa8], rax\n"


@INJECTED
def test_later_vmruns_inject_events(word, vector, error):
    host = OwnHost(VMMCALL, each=SKIP + inject(word), runs=2)
    _, exit_ = host.run()
    assert (0x81, vector) == (exit_.code, handler_of(exit_.rip))
    frame = struct.unpack("<2Q", host.ram.read(host.vmcb["rsp"], 16))
    assert ((GUEST + 3, CODE) if error is None else (error, GUEST + 3)) == frame


@INJECTED
def test_an_event_whose_delivery_ended_in_an_exit_can_be_injected_again(word, vector, error):
    each = f"""
        cmp rcx, 0x81
        je first
        mov rax, {DATA | 7:#x}
        mov rdx, {NESTED + 0x3000 + 8 * (DATA >> 12):#x}
        mov [rdx], rax
        mov rax, [r13 + 0x88]
        mov [r13 + 0xa8], rax
        ret
    first:
        {SKIP}
        {inject(word)}
    """
    host = OwnHost(f"mov rsp, {DATA + 0x1000:#x}\n{VMMCALL}", each=each, runs=3)
    host.nested(DATA, 0)
    _, fault, exit_ = host.run()
    assert (0x400, FINAL | 6, VALID | word) == (fault.code, fault.info_1, fault.event)
    assert (0x81, vector) == (exit_.code, handler_of(exit_.rip))
    frame = struct.unpack("<2Q", host.ram.read(host.vmcb["rsp"], 16))
    assert ((GUEST + 10, CODE) if error is None else (error, GUEST + 10)) == frame


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("efer", 0xD00),
        ("efer", 0x1D00 | 1 << 30),
        ("cr0", 0x8001_0033 | 1 << 29),
        ("cr0", 0x8001_0033 | 1 << 32),
        ("cr4", 0x20 | 1 << 13),
        ("cr4", 0),
        ("cr0", 0x8001_0032),
        ("cr3", GUEST_TABLES | 1 << 52),
        ("dr6", 1 << 32),
        ("dr7", 1 << 32),
        ("asid", 0),
        ("general", 0),
        ("nested_cr3", 1 << 40),
        ("pat", 2),
        ("entry_event", VALID | 1 << 8),
        ("entry_event", VALID | EXCEPTION | 2),
        ("entry_event", VALID | EXCEPTION | 32),
    ],
)
def test_vmrun_refuses_what_is_no_state_of_a_cpu(name, value):
    offset = VMCB_FIELDS[name][0]
    spoil = f"mov rax, {value:#x}\nmov [r13 + {offset:#x}], {WIDTHS[VMCB_FIELDS[name][1]]}\n"
    host = OwnHost(VMMCALL * 2, each=SKIP + spoil, runs=2)
    _, exit_ = host.run()
    assert (INVALID, GUEST + 3, VMCB, HOST_STACK) == (exit_.code, exit_.rip, exit_.rax, exit_.rsp)
    assert {ExitCode.VMMCALL: 1, -1: 1} == host.machine.hypervisor.exits


def test_a_code_segment_of_two_modes_is_refused():
    attributes = 0xA9B | 0x400
    host = OwnHost(VMMCALL, each=f"{SKIP}mov word ptr [r13 + 0x412], {attributes:#x}\n", runs=2)
    assert [0x81, INVALID] == [each.code for each in host.run()]


@pytest.mark.parametrize(
    ("code", "intercept", "exit_code", "info"),
    [
        ("mov cr3, rax\n", ("cr_writes", 1 << 3), 0x13, 0),
        ("mov rax, cr4\n", ("cr_reads", 1 << 4), 0x04, 0),
        ("mov dr7, rax\n", ("dr_writes", 1 << 7), 0x37, 0),
        ("cpuid\n", ("general", 1 << 18), 0x72, 0),
        ("hlt\n", ("general", 1 << 24), 0x78, 0),
        ("rdtsc\n", ("general", 1 << 14), 0x6E, 0),
        ("int 0x80\n", ("general", 1 << 21), 0x75, 0),
        ("mov ecx, 0xc0000080\nrdmsr\n", ("general", 1 << 28), 0x7C, 0),
        ("mov ecx, 0xc0000080\nwrmsr\n", ("general", 1 << 28), 0x7C, 1),
        ("mov dx, 0x3f8\nin al, dx\n", ("general", 1 << 27), 0x7B, 0x03F8_0211),
        ("mov dx, 0x3f8\nout dx, eax\n", ("general", 1 << 27), 0x7B, 0x03F8_0240),
        ("mov rax, 0x300000\n.byte 0x0f, 0x01, 0xd8\n", ("general", 0), 0x80, 0),
        ("div byte ptr [rsp]\n", ("exceptions", 1 << 0), 0x40, 0),
        ("ud2\n", ("exceptions", 1 << 6), 0x46, 0),
        ("mov rbx, -8\nshr rbx, 1\nmov rax, [rbx]\n", ("exceptions", 1 << 13), 0x4D, 0),
    ],
)
def test_what_is_intercepted_is_an_exit_of_its_own(code, intercept, exit_code, info):
    host = OwnHost(code)
    host.ram.write(MAPS, b"\xff" * 0x4000)
    host.vmcb["io_map"] = host.vmcb["msr_map"] = MAPS
    host.vmcb[intercept[0]] |= intercept[1]
    (exit_,) = host.run()
    assert (exit_code, info) == (exit_.code, exit_.info_1)


@pytest.mark.parametrize(
    ("code", "info", "length"),
    [
        ("in al, 0x60\n", 0x60_0211, 2),
        ("out 0x60, ax\n", 0x60_0220, 3),
        ("mov dx, 0x60\noutsb\n", 0x60_0E14, 1),
        ("mov dx, 0x60\nrep insd\n", 0x60_024D, 2),
    ],
)
def test_an_exit_for_a_port_tells_what_is_done_and_where_the_next_instruction_is(
    code, info, length
):
    host = OwnHost(code)
    host.ram.write(MAPS, (1 << 0x60).to_bytes(0x3000, "little"))
    host.vmcb["io_map"] = MAPS
    host.vmcb["general"] |= General.IOIO
    (exit_,) = host.run()
    assert (info, exit_.rip + length) == (exit_.info_1, exit_.info_2)


def test_ports_that_are_not_intercepted_are_the_machines():
    host = OwnHost("mov al, 0x41\nmov dx, 0x3f8\nout dx, al\nin al, 0x60\n")
    host.ram.write(MAPS, (1 << 0x60).to_bytes(0x3000, "little"))
    host.vmcb["io_map"] = MAPS
    host.vmcb["general"] |= General.IOIO
    (exit_,) = host.run()
    assert (0x7B, b"A") == (exit_.code, bytes(host.machine.console))


def test_a_state_can_be_taken_of_a_guest_whose_host_intercepts_its_msrs():
    host = OwnHost("here:\nhlt\njmp here\n")
    host.ram.write(MAPS, b"\xff" * 0x2000)
    host.vmcb["msr_map"] = MAPS
    host.vmcb["general"] |= General.MSR
    host.run()
    assert Stop.HALTED is host.ended.stop
    assert GUEST_TABLES == core_state(host.cpu).control["cr3"]
    assert 0x1D00 == paging_context(host.cpu).efer
    assert VMCB == guest_mode(host.cpu).vmcb


def test_a_triple_fault_is_a_shutdown_of_the_guest_alone():
    host = OwnHost("ud2\n")
    host.vmcb.set_segment("idt", Segment(0, IDT, 0, 0))
    (exit_,) = host.run()
    assert (ExitCode.SHUTDOWN, Stop.HALTED) == (exit_.code, host.ended.stop)


@pytest.mark.parametrize("intercepted", [Vector.GP, Vector.DF])
def test_a_fault_of_a_delivery_is_an_exit_where_it_is_intercepted(intercepted):
    host = OwnHost("mov rbx, -8\nshr rbx, 1\nmov rax, [rbx]\n")
    host.vmcb.set_segment("idt", Segment(0, IDT, 16 * 13, 0))  # No gate from #GP on.
    host.vmcb["exceptions"] = 1 << intercepted
    (exit_,) = host.run()
    delivered = VALID | EXCEPTION | HAS_ERROR | Vector.GP
    wanted = (0x4D, 0, 0) if intercepted == Vector.GP else (0x48, 0, delivered)
    assert wanted == (exit_.code, exit_.info_1, exit_.event)


def test_a_fault_of_an_interrupts_delivery_tells_of_the_interrupt():
    host = OwnHost(VMMCALL, each=SKIP + inject(0x30), runs=2)
    host.vmcb.set_segment("idt", Segment(0, IDT, 16 * 0x30 - 1, 0))
    host.vmcb["exceptions"] = 1 << Vector.GP
    _, exit_ = host.run()
    assert (0x4D, 8 * 0x30 + 3, VALID | 0x30) == (exit_.code, exit_.info_1, exit_.event)


def test_what_the_guest_maps_is_known_where_it_runs_and_after_its_exit():
    host = OwnHost("here:\nhlt\njmp here\n")
    assert None is host.machine.hypervisor.nested_root
    host.run()
    inside = host.machine.hypervisor.nested_root
    assert (NESTED, VMCB, True) == (inside.nested_cr3, inside.vmcb, inside.running)
    assert (0x8001_0033, GUEST_TABLES, 0x20, 0x1D00) == inside.guest
    assert (0x10000, 0x1D00) == (inside.host.cr3, inside.host.efer)
    outside = OwnHost(VMMCALL)
    outside.run()
    assert replace(inside, running=False) == outside.machine.hypervisor.nested_root


def test_two_runs_leave_the_same_memory():
    def memory():
        host = OwnHost(f"{VMMCALL}{WRITE}", each=SKIP + inject(0x30), runs=4)
        host.nested(DATA, DATA | 5)
        host.run()
        return host.ram.bytes.tobytes()

    assert memory() == memory()


WAIT = f"{PIC_UP}sti\nhlt\n"
V_IRQ, IGNORE_TPR, MASKING = 1 << 8, 1 << 20, 1 << 24


def test_without_an_intercept_a_guest_takes_interrupts_itself():
    (exit_,) = OwnHost(WAIT).run()
    assert (0x81, 0x30) == (exit_.code, handler_of(exit_.rip))


def test_an_intercepted_interrupt_is_an_exit_and_stays_pending_for_the_host():
    host = OwnHost(WAIT)
    host.vmcb["general"] |= General.INTR
    (exit_,) = host.run()
    assert (0x60, 0, 0) == (exit_.code, exit_.info_1, exit_.event)
    assert b"\xf4" == host.ram.read(exit_.rip - 1, 1)
    assert {} == {key: n for key, n in host.machine.counts.items() if key[1] is Kind.INTERRUPT}


@pytest.mark.parametrize(("host_enabled", "exits"), [(True, [0x60]), (False, [])])
def test_with_masking_the_hosts_flag_says_whether_interrupts_come(host_enabled, exits):
    host = OwnHost(f"{PIC_UP}cli\nhlt\n")
    host.vmcb["general"] |= General.INTR
    host.vmcb["interrupts"] = MASKING
    host.cpu.rflags = 0x202 if host_enabled else 2
    assert exits == [each.code for each in host.run()]


@pytest.mark.parametrize(
    ("word", "rflags", "taken"),
    [
        (V_IRQ | IGNORE_TPR, 0x202, True),
        (V_IRQ | 5 << 16 | 4, 0x202, True),
        (V_IRQ | 5 << 16 | 5, 0x202, False),
        (V_IRQ | IGNORE_TPR, 2, False),
        (IGNORE_TPR, 0x202, False),
    ],
)
def test_a_virtual_interrupt_is_taken_at_the_entry_where_the_guest_takes_it(word, rflags, taken):
    host = OwnHost(VMMCALL)
    host.vmcb["interrupts"] = word | 0x40 << 32
    host.vmcb["rflags"] = rflags
    (exit_,) = host.run()
    assert taken == (exit_.rip != GUEST)
    assert not taken or handler_of(exit_.rip) == 0x40
    left = V_IRQ if word & V_IRQ and not taken else 0
    assert word & ~V_IRQ | left | 0x40 << 32 == host.vmcb["interrupts"]


def test_a_virtual_interrupt_waits_until_the_guest_enables_interrupts():
    host = OwnHost("nop\nsti\nnop\nout 0x80, al\nnop\nhlt\n")
    host.vmcb["interrupts"] = V_IRQ | IGNORE_TPR | 0x40 << 32
    (exit_,) = host.run()
    assert 0x40 == handler_of(exit_.rip)
    assert IGNORE_TPR | 0x40 << 32 == host.vmcb["interrupts"]


@pytest.mark.parametrize("masking", [0, MASKING])
@pytest.mark.parametrize(("tpr", "taken"), [(4, True), (5, False)])
def test_a_virtual_interrupt_that_waits_needs_more_than_the_virtual_tpr(masking, tpr, taken):
    host = OwnHost("nop\nsti\nnop\nout 0x80, al\nnop\n" + VMMCALL)
    word = V_IRQ | 5 << 16 | tpr | 0x40 << 32 | masking
    host.vmcb["interrupts"] = word
    (exit_,) = host.run()
    assert taken is (handler_of(exit_.rip) == 0x40)
    assert word - taken * V_IRQ == host.vmcb["interrupts"]


@pytest.mark.parametrize("code", [VMMCALL, "sti\nnop\nout 0x80, al\nhlt\n"])
def test_an_intercepted_virtual_interrupt_is_an_exit_and_stays_pending(code):
    host = OwnHost(code)
    host.vmcb["interrupts"] = V_IRQ | IGNORE_TPR | 0x40 << 32
    host.vmcb["rflags"] = 0x202 if code == VMMCALL else 2
    host.vmcb["general"] |= General.VINTR
    (exit_,) = host.run()
    assert (0x64, V_IRQ | IGNORE_TPR | 0x40 << 32) == (exit_.code, host.vmcb["interrupts"])


@pytest.mark.parametrize("bits", [16, 32])
def test_guests_of_smaller_code_are_left_and_entered_as_well(bits):
    code = "mov eax, 0x12345678\n" + VMMCALL + "int 0x21\n"
    host = OwnHost(code, bits=bits, runs=2, each=SKIP)
    selector = GUEST >> 4 if bits == 16 else CODE
    base = GUEST if bits == 16 else 0
    flags = 0x9B00 if bits == 16 else 0x00C0_9B00
    host.vmcb.set_segment("cs", Segment(selector & 0xFFFF, base, 0xFFFF_FFFF, flags))
    data = Segment(FLAT, 0, 0xFFFF_FFFF, 0x9300 if bits == 16 else 0x00C0_9300)
    for name in ("ss", "ds", "es"):
        host.vmcb.set_segment(name, data)
    host.vmcb["cr0"], host.vmcb["cr4"] = (0x10, 0) if bits == 16 else (0x11, 0)
    host.vmcb["efer"], host.vmcb["rip"] = EFER.SVME, 0 if bits == 16 else GUEST
    host.vmcb["rsp"] = 0x8000
    if bits == 16:
        host.vmcb.set_segment("idt", Segment(0, 0, 0x3FF, 0))
        host.ram.write(4 * 0x21, struct.pack("<HH", 0x600, 0))
        host.ram.write(0x600, HANDLER)
    else:
        host.vmcb.set_segment("idt", Segment(0, IDT, 0x7FF, 0))
        host.ram.words[IDT // 8 + 0x21] = (
            HANDLERS & 0xFFFF | CODE << 16 | (0x8E00 | (HANDLERS >> 16) << 16) << 32
        )
        host.ram.write(GDT + 8, struct.pack("<Q", 0x00CF_9B00_0000_FFFF))
    first, second = host.run()
    assert (0x81, 0x1234_5678) == (first.code, host.vmcb["rax"])
    assert (0x81, 0x600 if bits == 16 else HANDLERS) == (second.code, second.rip)
    assert host.cpu.long_mode
    assert 64 == host.cpu.bits


@pytest.mark.parametrize("delivered", ["an exception", "an interrupt", "a call"])
def test_an_exit_whose_host_was_saved_nowhere_ends_the_run_by_name(delivered):
    code = {"an exception": "ud2\n", "an interrupt": WAIT, "a call": VMMCALL}[delivered]
    host = OwnHost(code)
    host.write(HOST, SOURCE, SAVE=0xE000_0000)
    host.vmcb["general"] |= General.INTR
    host.vmcb["exceptions"] = 1 << Vector.UD
    assert [] == host.run()
    assert (Stop.STUCK, "the VMCB at 0xe0000000 is no page of RAM") == (
        host.ended.stop,
        host.ended.detail,
    )
