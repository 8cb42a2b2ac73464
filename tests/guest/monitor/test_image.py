"""The monitor's image, carried out by Unicorn: all that needs no virtualisation."""

import struct

import numpy as np
import pytest
import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.guest.monitor import commands, places
from crosswalk.guest.monitor.commands import (
    FORMAT,
    REGISTERS,
    Command,
    Damaged,
    Op,
    Refusal,
    Status,
    decoded,
    encoded,
)
from crosswalk.guest.monitor.image import BUFFER, Transport, monitor_image, size_of, symbols
from crosswalk.walker.errors import BadInput

BASE = 2 << 20
RAM = 8 << 20
ROOM = 0x4000
LOW = 0x10000
MAP = 0x9000
ALL = (1 << 64) - 1
WORDS = [7, 8, ALL, 9]


def carried_out(words, transport=Transport.MEMORY, ram_map=()):
    """The words that the image answers to these, and what it printed."""
    image = monitor_image(BASE, transport, words, ROOM)
    ram = Ram(0, RAM)
    printed = bytearray()
    engine = open_engine(ram)
    engine.mem_write(BASE, image)
    entries = b"".join(struct.pack("<IQQI", 20, start, size, kind) for start, size, kind in ram_map)
    engine.mem_write(MAP, struct.pack("<I40xII", 0x40, len(entries), MAP + 0x100))
    engine.mem_write(MAP + 0x100, entries)
    engine.mem_write(BASE + symbols()["D_INFO"], MAP.to_bytes(4, "little"))
    engine.reg_write(x86.UC_X86_REG_GDTR, (0, BASE + places.GDT, 0xFF, 0))
    engine.reg_write(x86.UC_X86_REG_CR3, BASE + places.PML4)
    engine.hook_add(
        unicorn.UC_HOOK_INSN,
        lambda _uc, port, _size, value, _data: port == 0xE9 and printed.append(value),
        None,
        1,
        0,
        x86.UC_X86_INS_OUT,
    )
    engine.emu_start(BASE + places.CODE, BASE + RAM, count=1_000_000)
    answers = engine.mem_read(BASE + size_of(words, ROOM) - ROOM, ROOM)
    return np.frombuffer(bytes(answers), "<u8").astype(np.uint64), bytes(printed)


def answers_to(*asked):
    words, _ = carried_out(encoded(asked, 0))
    greeting, *answers = decoded(words, 0)
    assert Op.GREETING is greeting.op
    return answers


def outcome(answer):
    return answer.op, answer.status, answer.words


def test_the_greeting_says_where_the_monitor_lies_and_where_ram_is():
    ram = [(0, 0x9F000, 1), (0x9F000, 0x1000, 2), (1 << 20, 15 << 20, 1), (4 << 30, 1 << 30, 1)]
    nothing = encoded([], 0)
    words, printed = carried_out(nothing, ram_map=ram)
    (greeting,) = decoded(words, 0)
    wanted = [FORMAT, BASE, size_of(nothing, ROOM)]
    wanted += [0, 0x9F000, 1 << 20, 16 << 20, 4 << 30, 5 << 30]
    assert (Status.OK, wanted, b"") == (greeting.status, greeting.words, printed)


def test_what_is_printed_is_what_is_in_memory():
    words, printed = carried_out(encoded([commands.read(LOW, 2)], 0), Transport.PRINTED)
    assert 2 == len(list(decoded(words, 0)))
    assert words.tobytes().startswith(printed)
    assert 2 == len(list(decoded(np.frombuffer(printed, "<u8"), 0)))


def test_memory_is_read_and_written():
    written, read, part, filled, loaded, stored, again = answers_to(
        commands.write(LOW, WORDS),
        commands.read(LOW, 4),
        commands.read(LOW + 8, 2),
        commands.fill(LOW + 16, 2, 5),
        commands.load([LOW + 24, LOW]),
        commands.store([(LOW, 1), (LOW + 24, 2)]),
        commands.read(LOW, 5),
    )
    assert [(Status.OK, [])] * 3 == [
        (each.status, each.words) for each in (written, filled, stored)
    ]
    assert [WORDS, [8, ALL], [5, 7], [1, 8, 5, 2, 0]] == [
        each.words for each in (read, part, loaded, again)
    ]


def test_memory_is_copied_and_compared():
    *_, same, _, differing, few = answers_to(
        commands.write(LOW, WORDS),
        commands.copy(LOW, LOW + 0x1000, 4),
        commands.compare(LOW, LOW + 0x1000, 4, 4),
        commands.store([(LOW + 8, 1), (LOW + 24, 2)]),
        commands.compare(LOW, LOW + 0x1000, 4, 4),
        commands.compare(LOW, LOW + 0x1000, 4, 1),
    )
    assert [[0], [2, 1, 1, 8, 3, 2, 9], [2, 1, 1, 8]] == [
        each.words for each in (same, differing, few)
    ]


def test_memory_is_restored_with_what_had_changed():
    *_, restored, left = answers_to(
        commands.write(LOW, WORDS),
        commands.copy(LOW, LOW + 0x1000, 4),
        commands.store([(LOW + 8, 1), (LOW + 24, 2)]),
        Command(Op.RESTORE, [1, LOW, LOW + 0x1000, 4]),
        commands.read(LOW, 4),
    )
    assert ([2, LOW + 8, 1], WORDS) == (restored.words, left.words)


OTHER = LOW + 0x1000


@pytest.mark.parametrize("size", range(20))
def test_memory_of_any_size_is_copied_compared_and_restored(size):
    words = [0x100 + at for at in range(24)]
    changed = sorted({0, size // 2, size - 1} & set(range(size)))
    answers = answers_to(
        commands.write(LOW, words),
        commands.fill(OTHER, 24),
        commands.copy(LOW, OTHER, size),
        commands.read(OTHER, 24),
        commands.compare(LOW, OTHER, size, 4),
        commands.store([(LOW + 8 * at, at) for at in changed]),
        commands.compare(LOW, OTHER, size, 4),
        Command(Op.RESTORE, [4, LOW, OTHER, size]),
        commands.read(LOW, 24),
    )
    copied, same, _, differing, restored, left = (each.words for each in answers[3:])
    assert [*words[:size], *[0] * (24 - size)] == copied
    assert [0] == same
    assert [len(changed), *(x for at in changed for x in (at, at, words[at]))] == differing
    assert [len(changed), *(x for at in changed for x in (LOW + 8 * at, at))] == restored
    assert words == left


@pytest.mark.parametrize("distance", [-9, -8, -1, 0, 1, 7, 8, 9])
def test_memory_that_overlaps_is_copied_from_the_first_word_up(distance):
    words = list(range(1, 49))
    start = 12
    for at in range(20):
        words[start + distance + at] = words[start + at]
    *_, copied = answers_to(
        commands.write(LOW, list(range(1, 49))),
        commands.copy(LOW + 8 * start, LOW + 8 * (start + distance), 20),
        commands.read(LOW, 48),
    )
    assert words == copied.words


def test_registers_of_the_guest_are_kept():
    values = list(range(100, 100 + len(REGISTERS)))
    *_, kept = answers_to(commands.set_registers(values), commands.get_registers())
    assert values == kept.words


def test_cpuid_and_msrs_are_the_machines():
    cpuid, efer = answers_to(commands.cpuid((0, 0)), commands.read_msr(0xC0000080))
    vendor = struct.pack("<IIIIII", *np.array(cpuid.payload, "<u8").view("<u4"), 0, 0)
    assert vendor[4:8] + vendor[12:16] + vendor[8:12] in {b"GenuineIntel", b"AuthenticAMD"}
    assert 0x500 == efer.words[0] & 0x500


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (Command(Op.GREETING), Refusal.COMMAND),
        (Command(Op.READ, [LOW]), Refusal.PAYLOAD),
        (Command(Op.WRITE), Refusal.PAYLOAD),
        (Command(Op.STORE, [LOW]), Refusal.PAYLOAD),
        (Command(Op.WRITE_MSR, [1, 2, 3]), Refusal.PAYLOAD),
        (Command(Op.SET_REGISTERS, [1]), Refusal.PAYLOAD),
        (Command(Op.HANDLE, [0, 1]), Refusal.PAYLOAD),
        (commands.handle([], [range(5)] * (places.MOST_ROWS + 1)), Refusal.PAYLOAD),
        (commands.read(LOW, ROOM // 8), Refusal.ROOM),
        (commands.compare(LOW, LOW, 1, ROOM // 8), Refusal.ROOM),
        (commands.read(LOW, 1 << 61), Refusal.ROOM),
    ],
)
def test_what_cant_be_meant_is_refused_and_ends_the_monitor(command, refusal):
    asked = command.may_fail()
    first, refused = answers_to(commands.read(LOW, 1), asked, commands.read(LOW, 1))
    head = int(encoded([command, asked], 0)[command.words])
    assert (Op.READ, Status.OK) == (first.op, first.status)
    assert (command.op, Status.REFUSED, [refusal, head]) == outcome(refused)


@pytest.mark.parametrize(
    ("at", "bit", "refusal"),
    [
        (0, 0, Refusal.CHECKSUM),
        (1, 63, Refusal.CHECKSUM),
        (2, 5, Refusal.CHECKSUM),
        (3, 17, Refusal.CHECKSUM),
        (0, 40, Refusal.LENGTH),
    ],
)
def test_a_damaged_command_is_noticed(at, bit, refusal):
    words = encoded([commands.read(LOW, 1), commands.read(LOW, 1)], 0)
    words[4 + at] ^= np.uint64(1 << bit)
    _, first, refused = decoded(carried_out(words)[0], 0)
    assert (Status.OK, Status.REFUSED) == (first.status, refused.status)
    assert [refusal, int(words[4])] == refused.words


def test_commands_in_another_order_are_noticed():
    words = encoded([commands.read(LOW, 1), commands.fill(LOW, 1)], 0)
    _, refused = decoded(carried_out(np.concatenate([words[4:], words[:4]]))[0], 0)
    assert Refusal.SEQUENCE == refused.words[0]


def test_a_batch_of_another_number_is_noticed():
    _, refused = decoded(carried_out(encoded([commands.read(LOW, 1)], 7))[0], 0)
    assert Refusal.CHECKSUM == refused.words[0]


def test_answers_of_a_monitor_that_lies_are_damaged():
    words, _ = carried_out(encoded([commands.read(LOW, 4)], 0))
    assert 2 == len(list(decoded(words, 0)))
    greeting = next(decoded(words, 0))
    words[2 + len(greeting.words) + 2] ^= np.uint64(1)  # A word that was read.
    with pytest.raises(Damaged, match="answer 1 hasn't the checksum"):
        list(decoded(words, 0))


@pytest.mark.parametrize("base", [0, 1 << 20, (2 << 20) + 0x1000, (3 << 30) - BUFFER, 1 << 32])
def test_places_that_are_none_are_refused(base):
    with pytest.raises(BadInput, match="is no place of the monitor"):
        monitor_image(base)


def test_the_same_image_has_the_same_bytes():
    assert monitor_image(BASE) == monitor_image(BASE)
    assert monitor_image(BASE) != monitor_image(2 * BASE)
