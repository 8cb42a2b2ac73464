"""Live guests, behind a scripted stub that does as QEMU's, and behind worse ones."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from crosswalk.walker import SparseWords
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import (
    Registers,
    SourceKind,
    gdb,
    gdb_remote,
    live,
    open_contents,
    open_source,
    source_of,
)
from crosswalk.walker.formats.gdb import open_live, release_live_guests
from crosswalk.walker.formats.gdb_registers import Register, parse_description
from crosswalk.walker.formats.live import released_on_error, settle
from crosswalk.walker.mappings import mappings
from tests.tables import OPEN, RW, P, PageTables, context
from tests.walker.formats.stubs import REGISTERS, TARGET, HungUp, Stub, cpu_of, framed

RAM = ((0, 0xA0000), (0x100000, 0x100000))
SECONDS = 30.0  # Longer than any answer takes here: a test that waits for it is a test that fails.
SOON = 0.05  # For stubs that never answer.


def tables():
    return (
        PageTables(ram=RAM)
        .map(0x40_0000, 0x108000, P | RW)
        .map(0x40_1000, 0x109000, P)
        .map(0xFFFF_8000_0000_0000, 0x10A000, OPEN)
    )


@pytest.fixture
def stub():
    with Stub(tables().memory).listening() as serving:
        yield serving
    left = gdb._paused.copy()
    gdb._paused.clear()
    assert [] == left


def opened(stub, **options):
    """The source of the guest, read and let go."""
    contents = open_live(stub.name, seconds=SECONDS, **options)
    with released_on_error(contents.memory):
        source = source_of(contents)
        settle(contents.memory, [source.context])
    return source


def pages(source):
    return list(mappings(source.memory, source.context))


EXPECTED = list(mappings(tables().memory, context()))


def test_a_live_guest_has_the_pages_of_its_tables(stub):
    source = open_source(stub.name)
    assert 3 == len(EXPECTED)
    assert EXPECTED == pages(source)
    assert SourceKind.LIVE is source.kind
    assert RAM == source.memory.ranges


def test_registers_are_found_by_name_where_others_are_commented_out(stub):
    stub.cpus = [cpu_of(cr4=0x10_20A0, eflags=0x40246), cpu_of(cr3=0x2000)]
    source = opened(stub)
    known = source.registers
    assert (0x1000, 0x10_20A0, 0xD01) == (known.cr3, known.cr4, known.efer | 1)
    assert known.rflags_ac
    assert [0x1000, 0x2000] == [each.cr3 for each in source.cpus]
    assert 2 == source.address_spaces


def test_what_the_monitor_says_of_the_cpu_is_known(stub):
    known = opened(stub).registers
    assert (46, False, "intel") == (known.maxphyaddr, known.page1gb, known.vendor)


def test_a_cpu_is_chosen_by_its_number(stub):
    stub.cpus = [cpu_of(cr3=0x2000), cpu_of()]
    assert EXPECTED == pages(opened(stub, cpu=1))
    with pytest.raises(BadInput, match=rf"{stub.name}: no CPU 2; the guest has 2$"):
        open_live(stub.name, cpu=2)
    assert (True, False) == stub.found


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("physical", [True, False])
@pytest.mark.parametrize("no_ack", [True, False])
def test_a_guest_is_left_as_it_was_found(stub, running, physical, no_ack):
    stub.running, stub.physical, stub.no_ack = running, physical, no_ack
    assert EXPECTED == pages(opened(stub))
    assert (running, physical) == stub.found
    assert 1 == stub.connections


@pytest.mark.parametrize("state", ["prelaunch", "debug", "guest-panicked"])
def test_a_guest_that_is_stopped_for_a_reason_stays_so_whatever_the_version(stub, state):
    stub.running, stub.state, stub.version = False, state, "11.1.3"
    stub.printed["info version"] = "11.1.3 (Debian 1:11.1.3)"
    said = []
    opened(stub, notice=said.append)
    assert (False, False) == stub.found
    assert [] == said


def test_a_stub_that_does_not_tell_whether_the_guest_ran_is_named_and_it_goes_on(stub):
    stub.version = stub.printed["info version"] = "10.0.2"
    said = []
    opened(stub, notice=said.append)
    assert (True, False) == stub.found
    expected = (
        "QEMU 10.0.2 doesn't tell whether the guest ran before: it goes on afterwards "
        "(--leave-paused leaves it paused)"
    )
    assert [expected] == said


@pytest.mark.parametrize("version", ["7.2.22", "10.0.2"])
def test_a_guest_is_left_paused_if_that_is_asked_for(stub, version):
    stub.version = stub.printed["info version"] = version
    said = []
    opened(stub, notice=said.append, leave_paused=True)
    assert (False, False) == stub.found
    assert [] == said


def test_a_guest_that_somebody_else_has_go_on_is_reported(stub):
    said = []
    contents = open_live(stub.name, notice=said.append)
    stub.running = True
    stub._take = lambda connection, buffer, take=stub._take: _running(
        stub, take, connection, buffer
    )
    contents.memory.release()
    assert [
        "somebody had the guest go on while it was read: what was read need not belong together"
    ] == said


def _running(stub, take, connection, buffer):
    """Take commands without pausing the guest: somebody else's `cont` comes before each."""
    stub.running, was = False, True
    stub._monitor = lambda asked: ["VM status: running\r\n"]
    taken = take(connection, buffer)
    stub.running = was
    return taken


def test_tables_are_read_once_and_no_more_when_the_guest_runs(stub):
    source = opened(stub)
    read = [command for command in stub.log if command[:1] == b"m"]
    assert len(read) == len(set(read))
    assert (
        len({int(command[1:].split(b",")[0], 16) >> 12 for command in read})
        == source.memory.fetched
    )
    with pytest.raises(BadInput, match=r"the guest runs again; 0x150000 wasn't read$"):
        source.memory.word(0x150000)


def test_a_guest_with_more_tables_than_are_kept_stays_paused_until_it_is_released(
    stub, monkeypatch
):
    monkeypatch.setattr(live, "_SETTLED", 5)
    source = source_of(open_live(stub.name))
    settle(source.memory, [source.context])
    assert not stub.running
    assert EXPECTED == pages(source)
    release_live_guests()
    assert (True, False) == stub.found


def test_a_guest_whose_tables_lie_outside_its_memory_goes_on(stub):
    stub.memory = SparseWords(RAM, tables().entries | {0x1008: 0x9_0000_0000 | OPEN})
    assert EXPECTED == pages(opened(stub))
    assert (True, False) == stub.found


def test_frames_that_follow_each_other_are_read_together_where_packets_are_large(stub):
    stub.size = 0x20020
    memory = open_live(stub.name).memory
    frames = np.array([0x0, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000], np.uint64)
    expected = tables().memory.tables(frames)
    assert (expected == memory.tables(frames)).all()
    assert [b"m0,4000", b"m4000,1000", b"m8000,1000"] == stub.log[-3:]
    memory.release()


def test_a_child_reads_nothing_and_lets_no_guest_go(stub):
    contents = open_live(stub.name)
    child = os.fork()
    if not child:
        try:
            release_live_guests()
            contents.memory.word(0x1000)
        except BadInput as error:
            os._exit(7 if "wasn't read" in str(error) else 1)
        os._exit(0)
    assert 7 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert not stub.running
    release_live_guests()
    assert stub.running


@pytest.mark.parametrize("end", ["", "; 1 / 0", "; raise SystemExit(3)"])
def test_a_program_that_ends_lets_its_guests_go(stub, end):
    program = f"from crosswalk.walker.formats import open_contents; open_contents(NAME){end}"
    subprocess.run(
        [sys.executable, "-c", program.replace("NAME", repr(stub.name))],
        capture_output=True,
        check=not end,
    )
    assert 1 == stub.connections
    assert (True, False) == stub.found


def spoiling(number, change):
    """Change what answers the commands of these numbers, as they come."""
    seen = iter(range(1 << 30))
    numbers = number if isinstance(number, range) else range(number, number + 1)

    def spoil(command, packets):
        return change(packets) if next(seen) in numbers else packets

    return spoil


def damaged(packets):
    return packets[:-2] + (b"00" if packets[-2:] != b"00" else b"01")


def hang_up(packets):
    raise HungUp


COMMANDS = 24
"""So many commands a session has at least."""

ALONE = (b"qSupported", b"qqemu", b"Qqemu", b"qXfer", b"qfThreadInfo", b"qsThreadInfo", b"D")
TOGETHER = (b"Hg", b"p", b"m")


def first(prefix, change):
    """Change what answers the first command that begins so."""
    waiting = [True]

    def spoil(command, packets):
        if command.startswith(prefix) and waiting:
            waiting.clear()
            return change(packets)
        return packets

    return spoil


@pytest.mark.parametrize("no_ack", [True, False])
@pytest.mark.parametrize("prefix", [*ALONE, *TOGETHER])
def test_an_answer_that_is_damaged_is_asked_for_again(stub, prefix, no_ack):
    stub.no_ack = no_ack
    stub.spoil = first(prefix, damaged)
    assert EXPECTED == pages(opened(stub))
    assert (True, False) == stub.found


@pytest.mark.parametrize("no_ack", [True, False])
def test_what_the_monitor_prints_damaged_is_an_error(stub, no_ack):
    stub.no_ack, stub.spoil = no_ack, first(b"qRcmd,696e666f206d74726565", damaged)
    with pytest.raises(BadInput, match=r"the answer to 'info mtree -f' is damaged$"):
        opened(stub)
    assert (True, False) == stub.found


def refusing(stub, prefix):
    """The stub refuses the first command that begins so, as if it had come damaged."""
    take, waiting = stub._take, [True]

    def refuse(connection, buffer):
        if waiting and buffer.startswith(b"$" + prefix) and b"#" in buffer:
            waiting.clear()
            connection.sendall(b"-")
            return buffer.index(b"#") + 3
        return take(connection, buffer)

    stub._take = refuse


@pytest.mark.parametrize("prefix", [*ALONE, b"qRcmd"])
def test_a_command_that_is_refused_as_damaged_is_sent_again(stub, prefix):
    refusing(stub, prefix)
    assert EXPECTED == pages(opened(stub))
    assert (True, False) == stub.found


@pytest.mark.parametrize("prefix", [b"p", b"Hg"])
def test_a_command_of_many_that_is_refused_is_an_error_as_nobody_knows_which(stub, prefix):
    refusing(stub, prefix)
    with pytest.raises(BadInput, match="the stub refuses what it is sent as damaged"):
        opened(stub)
    assert (True, False) == stub.found


READING = (*ALONE[:-1], b"qRcmd", *TOGETHER)
"""The commands before the guest is put back."""


@pytest.mark.parametrize("prefix", READING)
@pytest.mark.parametrize("running", [True, False])
def test_a_connection_that_is_lost_is_named_and_the_guest_put_back(stub, prefix, running):
    stub.running, stub.spoil = running, first(prefix, hang_up)
    with pytest.raises(BadInput, match=rf"^{stub.name}: the connection was lost: the stub has clo"):
        opened(stub)
    assert (running, False) == stub.found
    assert 2 == stub.connections


@pytest.mark.parametrize("prefix", [b"Qqemu.PhyMemMode:0", b"D"])
def test_a_connection_that_is_lost_when_all_is_read_is_made_anew(stub, prefix):
    stub.spoil = first(prefix, hang_up)
    assert EXPECTED == pages(opened(stub))
    assert (True, False) == stub.found
    assert 2 == stub.connections


@pytest.mark.parametrize("number", range(COMMANDS))
def test_a_guest_is_put_back_wherever_the_connection_is_lost(stub, number):
    stub.spoil = spoiling(number, hang_up)
    with suppress(BadInput):
        opened(stub)
    assert (True, False) == stub.found
    assert 2 == stub.connections


@pytest.fixture
def interruptible():
    """Have an interrupt raise KeyboardInterrupt: a shell may have had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("running", [True, False])
def test_a_guest_is_left_as_it_was_found_wherever_an_interrupt_comes(stub, running, monkeypatch):
    receive = gdb_remote.Remote._receive
    left = None

    def interrupted(remote, until):
        nonlocal left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)
        receive(remote, until)

    monkeypatch.setattr(gdb_remote.Remote, "_receive", interrupted)
    for number in range(1, 200):
        stub.running, stub.physical, left = running, False, number
        try:
            opened(stub)
        except KeyboardInterrupt:
            assert (running, False) == stub.found
        else:
            break
    assert 20 < number < 199
    assert (running, False) == stub.found


def test_a_stub_that_is_gone_for_good_is_named_with_what_is_left_of_the_guest(stub):
    def end(packets):
        stub._listening.close()
        raise HungUp

    stub.spoil = spoiling(15, end)
    with pytest.raises(
        BadInput,
        match=r": the connection was lost: the stub has closed it; the guest couldn't be left as "
        r"it was found: no connection: connection refused$",
    ):
        opened(stub)


def test_a_guest_that_ends_is_named(stub):
    stub.spoil = spoiling(15, lambda packets: framed(b"W00"))
    with pytest.raises(BadInput, match=r": the guest has ended$"):
        opened(stub)


@pytest.mark.parametrize(
    "between",
    [
        framed(b"T05thread:01;") * 3,
        framed(b"S05"),
        b"%Stop:T05thread:01;#00",
        b"+++\0\r\n",
    ],
)
def test_what_was_not_asked_for_is_passed_over(stub, between):
    stub.spoil = lambda command, packets: between + packets
    assert EXPECTED == pages(opened(stub))


def test_escapes_and_repeats_are_unpacked(stub):
    def packed(packets):
        data = packets[1:-3]
        if set(data) <= set(b"0123456789abcdef"):
            data = re.sub(rb"0{9}", b"0*%", data)  # One, and 37 - 29 repeats.
        elif data[:1] in (b"l", b"m"):
            data = data.replace(b"r", b"}" + bytes([ord("r") ^ 0x20]))
        return framed(data)

    stub.spoil = lambda command, packets: packets if packets.count(b"$") > 1 else packed(packets)
    assert EXPECTED == pages(opened(stub))


FOREIGN = {
    "nothing at all": {},
    "gdbserver": {"qSupported": "PacketSize=47ff;QPassSignals+;QStartNoAckMode+;swbreak+"},
    "OpenOCD": {"qSupported": "PacketSize=4000;qXfer:memory-map:read+;QStartNoAckMode+"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_stub_that_is_not_qemus_is_refused_and_nothing_is_asked_of_it(stub, name):
    answers = FOREIGN[name]
    stub.running = False
    stub._answer = lambda text: answers.get(text.partition(":")[0], "")
    with pytest.raises(BadInput, match=r": no stub of QEMU's: it can't read by physical address"):
        open_live(stub.name)
    assert {b"qSupported:xmlRegisters=i386", b"QStartNoAckMode", b"qqemu.PhyMemMode"} == set(
        stub.log
    )


def test_a_target_that_is_no_x86_is_refused_by_its_architecture(stub):
    stub.documents["target.xml"] = "<target><architecture>aarch64</architecture></target>"
    with pytest.raises(BadInput, match=r"its target \(aarch64\) has no register cr0$"):
        open_live(stub.name)
    assert (True, False) == stub.found


BOMB = "<!DOCTYPE a [<!ENTITY a '{}'><!ENTITY b '&a;&a;&a;'>]><target>&b;</target>"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (BOMB.format("x" * 99), "its description declares entities"),
        ('<target><xi:include href="target.xml"/></target>', "more than 16 documents"),
        ('<target><xi:include href="../../etc"/></target>', "a document without a name"),
        ("<target>", "its description is no XML: no element found"),
        ("", "its description is no XML"),
        ('<target><reg name="cr0"/></target>', "a register without a number or size"),
        ('<target><reg name="cr0" bitsize="64" regnum="-1"/></target>', "has a register -1"),
        ('<t><reg name="a" bitsize="8" regnum="99999999"/></t>', "has a register 99,999,999"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(stub, document, reason):
    stub.documents["target.xml"] = document
    with pytest.raises(BadInput, match=reason):
        open_live(stub.name)
    assert (True, False) == stub.found


def test_registers_are_numbered_as_their_document_says():
    documents = {"target.xml": TARGET, "64bit.xml": REGISTERS}
    found = parse_description(lambda name: documents[name].encode())
    assert "i386:x86-64" == found.architecture
    expected = {"rax": 0, "eflags": 1, "cr0": 2, "cr2": 3, "cr3": 4, "cr4": 5, "cr8": 9, "efer": 10}
    assert expected == {name: each.number for name, each in found.registers.items()}
    assert Register(1, 32) == found.registers["eflags"]


HOSTILE = {
    "a register that is none": (b"p", lambda packets: framed(b"xxxxxxxxxxxxxxxx"), "reads as"),
    "a register that is too large": (b"p", lambda packets: framed(b"00" * 64), "reads as"),
    "half of a read": (b"m", lambda packets: framed(b"00"), "bytes at 0x1000 can't be read"),
    "an error for a read": (b"m", lambda packets: framed(b"E14"), "can't be read: b'E14'"),
    "no CPUs": (b"qfThreadInfo", lambda packets: framed(b"l"), "it lists 0 CPUs"),
    "CPUs without end": (b"q", lambda packets: framed(b"m" + b"1," * 5000 + b"1"), "CPUs"),
    "CPUs that are none": (b"qfThreadInfo", lambda packets: framed(b"m/"), "without a number"),
    "no RAM": (b"qRcmd", lambda packets: framed(b"OK"), "doesn't say where RAM is"),
    "no hexadecimal text": (b"qRcmd", lambda packets: framed(b"Oxyz"), "no hexadecimal text"),
    "a description without end": (b"qXfer", lambda packets: framed(b"m<!--"), "doesn't end"),
    "no description": (b"qXfer", lambda packets: framed(b"E00"), "no description"),
    "rubbish": (b"q", lambda packets: b"HTTP/1.1 400\r\n" * 9000, "are no packets"),
    "a packet without end": (b"q", lambda packets: b"$" + b"a" * (1 << 21), "a packet of more"),
    "stop replies without end": (b"q", lambda packets: framed(b"S05") * 999, "no reply among"),
    "repeats without end": (b"m", lambda packets: framed(b"0" + b"*~" * 99999), "a packet of more"),
    "output without end": (
        b"qRcmd",
        lambda packets: framed(b"O" + b"20" * 500000) * 40,
        "of answer",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_makes_no_sense_is_one_line(stub, name):
    prefix, change, reason = HOSTILE[name]
    asked = prefix if prefix != b"q" else b"qfThreadInfo" if "CPUs" in name else b"qSupported"
    stub.spoil = lambda command, packets: change(packets) if command.startswith(asked) else packets
    with pytest.raises(BadInput, match=reason) as caught:
        opened(stub)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{stub.name}: ")


@pytest.mark.parametrize("data", [b"*~", b"0*", b"0*\x1f", b"0}"])
def test_what_cannot_be_unpacked_counts_as_damaged(stub, data):
    stub.no_ack = True
    stub.spoil = lambda command, packets: framed(data) if command[:1] == b"m" else packets
    with pytest.raises(BadInput, match="5 replies in a row with a wrong checksum"):
        opened(stub)
    assert (True, False) == stub.found


@pytest.mark.parametrize("size", ["ffffffff", "0", "ffffffffffffffff", "x"])
def test_packets_are_of_a_size_that_both_sides_take(stub, size):
    stub.spoil = lambda command, packets: (
        framed(b"PacketSize=" + size.encode()) if command.startswith(b"qSupported") else packets
    )
    stub.size = 0x100000
    assert EXPECTED == pages(opened(stub))


@pytest.mark.parametrize("sent", [b"", b"+", b"$", b"$O"])
def test_a_stub_that_does_not_answer_is_given_up(stub, sent):
    stub.spoil = lambda command, packets: sent
    with pytest.raises(
        BadInput, match=r": no answer in time( \(does another debugger hold it\?\))?$"
    ):
        open_live(stub.name, seconds=SOON)


def test_a_stub_that_drips_is_given_up(stub, monkeypatch):
    """By a clock on which time passes at each look: bytes come in time, but no packet ends."""
    clock = iter(range(1 << 30))
    monkeypatch.setattr(gdb_remote, "monotonic", lambda: next(clock) / 50)
    stub._say = lambda connection, packets: [
        connection.sendall(packets[at : at + 1]) for at in range(3)
    ]
    with pytest.raises(BadInput, match=r"no answer in time|it answers too slowly"):
        open_live(stub.name, seconds=SOON)


def test_a_stub_whose_every_answer_is_slow_is_given_up(stub, monkeypatch):
    """By a clock on which eight seconds pass at each look, and answers that take no more each."""
    clock = iter(range(0, 1 << 30, 8))
    monkeypatch.setattr(gdb_remote, "monotonic", lambda: float(next(clock)))
    with pytest.raises(BadInput, match="it answers too slowly"):
        opened(stub)


def test_kinds_and_bases_are_for_files(stub):
    for options in ({"kind": "raw"}, {"base": 0x1000}):
        with pytest.raises(BadInput, match="are for files"):
            open_contents(stub.name, **options)
    assert 0 == stub.connections


def test_a_guest_is_left_as_it_was_found_where_its_registers_make_no_sense(stub):
    with pytest.raises(BadInput, match="points outside the image"):
        open_source(stub.name, Registers(cr3=0xDEAD_F000))
    assert (True, False) == stub.found
