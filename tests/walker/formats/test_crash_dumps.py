"""Cores as Linux' kdump, makedumpfile and QEMU make them of one machine; and damaged ones."""

import random
import struct
import tracemalloc

import numpy as np
import pytest

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import open_contents, open_source
from crosswalk.walker.mappings import mappings
from crosswalk.walker.memory import FRAME
from crosswalk.walker.unfollowed import unfollowed
from tests.tables import ROOT, PageTables

FRAMES = 2048
IMAGE = range(0x100, 0x180)
DIRECT, KERNEL = 0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8000_0000
VMCOREINFO = f"OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)={KERNEL + ROOT:x}\nNUMBER(phys_base)=0\n"


@pytest.fixture(scope="module")
def tables():
    found = PageTables(ram=((0, FRAMES * FRAME),))
    for at in range(0, FRAMES, 7):
        found.map(DIRECT + at * FRAME, at * FRAME)
    for at in IMAGE:
        found.map(KERNEL + 0x100_0000 + at * FRAME, at * FRAME)
    return found


@pytest.fixture(scope="module")
def ram(tables):
    words = np.arange(FRAMES * 512, dtype="<u8") << np.uint64(12)
    used = {pa & -FRAME for pa in tables.entries}
    for frame in used:
        words[frame // 8 : frame // 8 + 512] = 0
    for pa, word in tables.entries.items():
        words[pa // 8] = word
    return words.tobytes()


def linux_notes(elf):
    return elf.note(b"CORE\0", 1, bytes(336)) + elf.note(b"VMCOREINFO\0", 0, VMCOREINFO.encode())


def short_segments(ram, kept, enough):
    """Segments as `makedumpfile -E` writes them: (address, bytes, p_memsz).

    A run of at least `enough` frames that aren't kept ends a segment, and is the part of it that
    isn't in the file; shorter ones are in the file. A run at the beginning is a segment by itself.
    """
    found, first, left_out = [], 0, 0
    for frame in range(len(kept) + 1):
        if frame < len(kept) and not kept[frame]:
            left_out += 1
            continue
        if left_out >= enough:
            end = frame - left_out
            found.append((first * FRAME, ram[first * FRAME : end * FRAME], (frame - first) * FRAME))
            first = frame
        left_out = 0
    if first < len(kept):
        found.append((first * FRAME, ram[first * FRAME :], (len(kept) - first) * FRAME))
    return found


def image_of(ram):
    return (IMAGE.start * FRAME, ram[IMAGE.start * FRAME : IMAGE.stop * FRAME])


def listed(source):
    return [
        (each.va, each.pa, each.size, each.flags)
        for each in mappings(source.memory, source.context)
    ]


@pytest.fixture
def opened(elf, tmp_path):
    """Open a core of these loads and notes."""

    def opened(loads, notes=None, **changes):
        notes = linux_notes(elf) if notes is None else notes
        (tmp_path / "core").write_bytes(elf.Core(loads=loads, notes=notes, **changes).build())
        return open_source(tmp_path / "core")

    return opened


@pytest.fixture
def whole(opened, ram):
    return listed(opened([(0, ram)]))


def test_the_vmcore_of_a_crash_has_the_kernels_image_twice(opened, ram, whole):
    source = opened([image_of(ram), (0, ram)])
    assert 2048 // 7 + 1 + len(IMAGE) == len(whole)
    assert (ROOT, whole) == (source.context.cr3, listed(source))
    assert (0, 0, VMCOREINFO) == (source.excluded, source.missing, source.vmcoreinfo)


@pytest.mark.parametrize("enough", [1, 2, 5])
def test_what_makedumpfile_leaves_out_is_excluded_and_no_table_lacks(
    opened, tables, ram, whole, enough
):
    used = {pa // FRAME for pa in tables.entries}
    chosen = random.Random(enough)
    kept = [frame in used or chosen.random() < 0.5 for frame in range(FRAMES)]
    kept[0] = False
    segments = short_segments(ram, kept, enough)
    source = opened([image_of(ram), *segments])
    assert len(segments) > 20
    held = {
        frame
        for start, part, _ in segments
        for frame in range(start // FRAME, (start + len(part)) // FRAME)
    }
    lacking = {*range(FRAMES)} - held - {*IMAGE}
    assert 0 < len(lacking)
    assert (len(lacking) * FRAME, 0) == (source.excluded, source.missing)
    assert lacking == {at for at in range(FRAMES) if source.memory.word(at * FRAME) is None}
    assert whole == listed(source)
    assert 0 == unfollowed(source.memory, source.context).outside


def test_a_table_that_is_excluded_is_outside_and_not_empty(opened, tables, ram, whole):
    table = tables.entry_pa(DIRECT) // FRAME
    kept = [frame != table for frame in range(FRAMES)]
    source = opened(short_segments(ram, kept, 1))
    assert FRAME == source.excluded
    assert 1 == unfollowed(source.memory, source.context).outside
    assert len(listed(source)) < len(whole)


def test_the_root_that_a_dump_states_is_taken_where_its_empty_tables_are_excluded(
    opened, tables, ram, whole
):
    # As many entries of the root refer to tables of zeros as Linux prepares for vmalloc.
    image, empty = bytearray(ram), range(FRAMES - 300, FRAMES - 200)
    for at, frame in enumerate(empty):
        image[frame * FRAME : (frame + 1) * FRAME] = bytes(FRAME)
        entry = ROOT + 8 * (0x180 + at)
        image[entry : entry + 8] = (frame * FRAME | 0x63).to_bytes(8, "little")
    kept = [frame not in empty for frame in range(FRAMES)]
    source = opened(short_segments(bytes(image), kept, 1))
    assert len(empty) * FRAME == source.excluded
    assert len(empty) == unfollowed(source.memory, source.context).outside
    mapped = {each[1] // FRAME for each in whole if each[1] // FRAME in empty}
    assert (ROOT, whole) == (source.context.cr3, listed(source))
    assert mapped


def test_what_qemu_leaves_out_is_missing_also_where_linux_tells_it_of_itself(elf, opened, ram):
    notes = linux_notes(elf) + elf.qemu_notes(elf.cpu_state(cr3=ROOT))
    block = (1, 0, (1 << 64) - 1, 0, 1 << 32, 0, 0x10_0000, 0)
    source = opened([(0, ram)], notes, parts=[block])
    assert (0, 0x10_0000) == (source.excluded, source.missing)
    assert VMCOREINFO == source.vmcoreinfo


def test_a_core_of_mapped_memory_is_the_memory(elf, opened, tables, ram, whole):
    notes = elf.qemu_notes(elf.cpu_state(cr3=ROOT))
    header, count = 64, 3 + len(whole)
    body = header + 56 * count + len(notes)
    runs = [(1, 0, body + pa, va, pa, size, size, 0) for va, pa, size, _ in whole]
    source = opened([(0, ram)], notes, parts=[*runs, (1, 0, (1 << 64) - 1, 0, 1 << 33, 0, 4, 0)])
    assert whole == listed(source)
    assert [(0, len(ram))] == list(source.memory.ranges)


@pytest.mark.parametrize("start", [1 << 45, (1 << 46) - FRAME, 1 << 51, (1 << 52) - FRAME])
def test_memory_may_lie_as_far_as_52_bits_reach(elf, tmp_path, start):
    (tmp_path / "core").write_bytes(
        elf.Core(loads=[(0, bytes(FRAME)), (start, b"\1" * FRAME)]).build()
    )
    memory = open_contents(tmp_path / "core").memory
    assert (start, FRAME) in memory.ranges
    assert [0x0101010101010101, None] == [memory.word(start), memory.word(start - 8)]


@pytest.mark.parametrize(
    ("pa", "memsz", "lacking"),
    [
        (0x4000, (1 << 64) - 1, (1 << 52) - 0x5000),
        ((1 << 64) - 0x1000, 0, 0),
        (0, 0x2000, 0),
        (0, 0x4000, 0x1000),
    ],
)
def test_what_segments_speak_of_is_counted_once_and_no_more_than_52_bits_hold(
    elf, tmp_path, pa, memsz, lacking
):
    core = elf.Core(loads=[(0, bytes(0x3000)), (0, bytes(0x3000), 0x2000)], notes=linux_notes(elf))
    held = 0x1000 if memsz > 0x2000 and pa else 0
    body = 64 + 56 * 5 + len(core.notes)
    core.parts = [(1, 0, body, 0, pa, held, memsz, 0)] * 2
    (tmp_path / "core").write_bytes(core.build())
    assert lacking == open_contents(tmp_path / "core").excluded


def damaged(whole, chosen):
    """One of many ways to damage a file; its size stays below twice what it was."""
    data = bytearray(whole)
    for _ in range(chosen.choice((0, 1, 1, 2, 4))):
        at = chosen.randrange(0, 0x700)
        data[at] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1 << chosen.randrange(8)))
    for _ in range(chosen.choice((0, 0, 1, 2))):
        at = chosen.randrange(0, 0x700) & -8
        value = chosen.choice(
            (0, 1, len(data), (1 << 63) - 1, (1 << 64) - 1, 1 << 52, (1 << 52) - 0x1000, 0x1000)
        )
        data[at : at + 8] = value.to_bytes(8, "little")
    if chosen.random() < 0.3:
        del data[chosen.randrange(len(data)) :]
    return bytes(data)


@pytest.mark.parametrize("kind", ["elf", "kcore"])
def test_a_damaged_core_is_read_or_refused_in_a_line_with_bounded_memory(elf, tmp_path, kind):
    state = elf.cpu_state()
    notes = (
        linux_notes(elf) + elf.qemu_notes(state, state) + elf.note(b"VBCPU\0", 0xB01, bytes(800))
    )
    notes += elf.note(b"CROSSWALK\0", 1, struct.pack("<IIQQIIII", 1, 40, 0xD01, 0, 0, 46, 1, 0))
    ram = bytes(range(256)) * 64
    loads = [(0, ram), (0x1000, ram[0x1000:0x2000]), (0x10_0000, ram, 0x8000)]
    whole = elf.Core(loads=loads, notes=notes, many=4).build()
    chosen, path, outcomes = random.Random(16), tmp_path / "core", {"read": 0}
    tracemalloc.start()
    try:
        for _ in range(400):
            path.write_bytes(damaged(whole, chosen) or b"\0")
            try:
                memory = open_contents(path, kind=kind).memory
            except (BadInput, LimitExceeded) as error:
                text = str(error)
                assert "\n" not in text
                outcomes[text.partition(": ")[2][:24]] = 1
            else:
                outcomes["read"] += 1
                assert memory.ranges
                for start, size in memory.ranges:
                    first = -(-start // FRAME) * FRAME
                    if first + FRAME <= start + size:
                        assert FRAME == len(memory.read(first, FRAME))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcomes["read"] > 30
    assert len(outcomes) > 8
    assert peak < 1 << 24
