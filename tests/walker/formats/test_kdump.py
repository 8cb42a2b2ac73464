import platform
import random
import sys

import numpy as np
import pytest

from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats import Registers, open_contents, open_source
from crosswalk.walker.formats.extras import unpacker
from crosswalk.walker.formats.kdump_header import MAX_FRAMES, MAX_RUNS
from crosswalk.walker.mappings import mappings
from tests.walker.formats.conftest import cpu_state, qemu_notes
from tests.walker.formats.kdumps import BLOCK, LZO, SNAPPY, ZLIB, ZSTD, Kdump, flattened

CODECS = {"zlib": ZLIB, "LZO": LZO, "Snappy": SNAPPY, "zstd": ZSTD, "not compressed": 0}
INFO = "".join(
    f"{line}\n"
    for line in (
        "OSRELEASE=6.1.0",
        "PAGESIZE=4096",
        "SYMBOL(swapper_pg_dir)=ffffffff82a10000",
        "KERNELOFFSET=0",
        "NUMBER(phys_base)=0",
        "NUMBER(pgtable_l5_enabled)=0",
    )
)


def page(number):
    return random.Random(number).randbytes(96).ljust(BLOCK, bytes([number % 251]))


NUMBERS = [*range(1, 20), 40, *range(100, 130)]
PAGES = {number: page(number) for number in NUMBERS}
RANGES = [(0x1000, 19 * BLOCK), (40 * BLOCK, BLOCK), (100 * BLOCK, 30 * BLOCK)]
DESCRIPTORS = 4 * BLOCK
"""Where page descriptors begin: behind header, sub-header and two bitmaps."""


@pytest.fixture
def opened(tmp_path):
    def opened(content, **settings):
        path = tmp_path / "memory.kdump"
        path.write_bytes(content)
        return open_contents(path, **settings)

    return opened


def frames(numbers):
    return np.array([number * BLOCK for number in numbers], np.uint64)


@pytest.mark.parametrize("codec", CODECS)
def test_pages_are_memory_at_their_addresses_however_they_are_stored(codec, opened):
    found = opened(Kdump(pages=PAGES, codec=CODECS[codec]).file())
    assert f"kdump-compressed file ({codec})" == found.format
    assert RANGES == list(found.memory.ranges)
    shuffled = random.Random(1).sample(NUMBERS, len(NUMBERS))
    expected = b"".join(PAGES[number] for number in shuffled)
    assert expected == found.memory.tables(frames(shuffled)).tobytes()


def test_a_page_that_does_not_become_smaller_is_stored_as_it_is(opened):
    pages = {3: random.Random(3).randbytes(BLOCK)}
    assert pages[3] == opened(Kdump(pages=pages).file()).memory.read(3 * BLOCK, BLOCK)


def test_ram_that_a_dump_leaves_out_is_excluded_and_not_backed(opened):
    found = opened(Kdump(pages=PAGES, ram=range(130)).file())
    assert RANGES == list(found.memory.ranges)
    assert (130 - len(PAGES)) * BLOCK == found.excluded
    with pytest.raises(BadInput, match="no memory at 0x14000"):
        found.memory.read(20 * BLOCK, 8)


def test_ram_that_is_left_out_reads_as_zeros_where_the_level_is_of_zero_pages_alone(opened):
    found = opened(Kdump(pages=PAGES, ram=range(130), level=1).file())
    assert [(0, 130 * BLOCK)] == list(found.memory.ranges)
    assert 0 == found.excluded
    assert PAGES[19] + bytes(BLOCK) == found.memory.read(19 * BLOCK, 2 * BLOCK)


def test_what_a_file_lacks_otherwise_than_by_its_level_does_not_read_as_zeros(tmp_path, opened):
    """A part of a split dump that isn't there, and the pages that an incomplete file lacks."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/only").write_bytes(Kdump(pages=PAGES, ram=range(130), level=1).file(10, 110))
    content = bytearray(Kdump(pages=PAGES, ram=range(130), level=1, status=ZLIB | 8).file())
    content[DESCRIPTORS : DESCRIPTORS + 24 * 9] = bytes(24 * 9)
    content[DESCRIPTORS + 24 * 30 : DESCRIPTORS + 24 * 50] = bytes(24 * 20)
    split, incomplete = open_contents(tmp_path / "parts/only"), opened(bytes(content))
    for found in (split, incomplete):
        assert [(0, BLOCK), (10 * BLOCK, 100 * BLOCK)] == list(found.memory.ranges)
        assert bytes(BLOCK) == found.memory.read(0, BLOCK)
        assert PAGES[19] + bytes(BLOCK) == found.memory.read(19 * BLOCK, 2 * BLOCK)
        assert 29 * BLOCK == found.missing


@pytest.mark.parametrize("level", [0, 2, 3, 31])
def test_other_levels_leave_out_what_may_have_held_anything(level, opened):
    found = opened(Kdump(pages=PAGES, ram=range(130), level=level).file())
    assert RANGES == list(found.memory.ranges)


def test_bitmaps_of_several_blocks_are_read_as_a_whole(opened):
    """Runs across the pieces that bitmaps are read in, too."""
    last = (1 << 23) + 5
    pages = {number: page(number) for number in ((1 << 23) - 1, 1 << 23, last)}
    found = opened(Kdump(pages=pages).file())
    assert [((1 << 35) - BLOCK, 2 * BLOCK), (last * BLOCK, BLOCK)] == list(found.memory.ranges)
    assert pages[1 << 23] == found.memory.read(1 << 35, BLOCK)


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_a_flattened_file_is_the_file_it_stands_for(codec, opened):
    plain = Kdump(pages=PAGES, codec=CODECS[codec], vmcoreinfo=INFO.encode()).file()
    found = opened(flattened(plain))
    assert f"kdump-compressed file ({codec}, flattened)" == found.format
    assert INFO == found.vmcoreinfo
    expected = b"".join(PAGES.values())
    assert expected == found.memory.tables(frames(NUMBERS)).tobytes()


def test_the_parts_of_a_split_dump_are_found_beside_each_other(tmp_path):
    whole = Kdump(pages=PAGES)
    bounds = [(0, 10), (10, 110), (110, 130)]
    for at, (start, end) in enumerate(bounds):
        (tmp_path / f"part{at}").write_bytes(whole.file(start, end))
    (tmp_path / "other").write_bytes(Kdump(pages=PAGES, uts="other").file(0, 130))
    (tmp_path / "copy").write_bytes(whole.file(*bounds[0]))
    said = []
    found = open_contents(tmp_path / "part1", notice=said.append)
    assert "kdump-compressed file (zlib, split in 3)" == found.format
    names = ", ".join(str(tmp_path / each) for each in ("part1", "copy", "part2"))
    assert [f"parts of one dump: {names}"] == said
    assert RANGES == list(found.memory.ranges)
    assert 0 == found.missing
    expected = b"".join(PAGES.values())
    assert expected == found.memory.tables(frames(NUMBERS)).tobytes()


def test_what_a_missing_part_of_a_split_dump_has_is_missing(tmp_path):
    (tmp_path / "only").write_bytes(Kdump(pages=PAGES).file(10, 110))
    found = open_contents(tmp_path / "only")
    assert "kdump-compressed file (zlib, a part of a split one)" == found.format
    assert [(10 * BLOCK, 10 * BLOCK), RANGES[1], (100 * BLOCK, 10 * BLOCK)] == list(
        found.memory.ranges
    )
    assert 29 * BLOCK == found.missing


def test_a_part_of_a_split_dump_may_say_that_it_goes_on_beyond_the_last_frame(opened):
    found = opened(Kdump(pages=PAGES).file(10, (1 << 64) - 1))
    assert (10 * BLOCK, 10 * BLOCK) == found.memory.ranges[0]
    assert PAGES[129] == found.memory.read(129 * BLOCK, BLOCK)


def test_pages_that_an_incomplete_file_lacks_are_missing(opened):
    content = bytearray(Kdump(pages=PAGES, status=ZLIB | 8).file())
    content[DESCRIPTORS + 24 * 40 : DESCRIPTORS + 24 * 50] = bytes(240)
    found = opened(bytes(content))
    assert 10 * BLOCK == found.missing
    assert [*RANGES[:2], (100 * BLOCK, 20 * BLOCK)] == list(found.memory.ranges)


@pytest.mark.parametrize("narrow", [False, True])
def test_registers_come_from_qemus_notes(narrow, opened):
    notes = qemu_notes(cpu_state(cr3=0x1000), cpu_state(cr3=0x2000))
    content = Kdump(pages=PAGES, notes=notes, narrow=narrow, machine="x86_64").file()
    found = opened(content, cpu=1)
    assert 0x2000 == found.registers.cr3
    assert [0x1000, 0x2000] == [each.cr3 for each in found.cpus]
    assert ("386" if narrow else "x86-64") == found.machine
    with pytest.raises(BadInput, match=r"no CPU 2; the file has the registers of 2$"):
        opened(content, cpu=2)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("version", [3, 4, 5, 6])
def test_vmcoreinfo_is_read(narrow, version, opened):
    found = opened(
        Kdump(pages=PAGES, vmcoreinfo=INFO.encode(), narrow=narrow, version=version).file()
    )
    assert INFO == found.vmcoreinfo
    assert PAGES[40] == found.memory.read(40 * BLOCK, BLOCK)


@pytest.mark.parametrize("machine", ["", "Unknown", "i686"])
def test_a_machine_that_is_not_named_may_be_any(machine, opened):
    found = opened(Kdump(pages=PAGES, machine=machine).file())
    assert PAGES[40] == found.memory.read(40 * BLOCK, BLOCK)


def test_tables_in_a_kdump_map_what_they_map_in_a_raw_image(tmp_path):
    tables = {1: {0: 0x2007}, 2: {0: 0x3007}, 3: {0: 0x4007, 1: 0x400083}, 4: {5: 0x5005}}
    pages = {
        number: b"".join(words.get(at, 0).to_bytes(8, "little") for at in range(512))
        for number, words in tables.items()
    }
    (tmp_path / "k").write_bytes(Kdump(pages=pages).file())
    (tmp_path / "r").write_bytes(bytes(BLOCK) + b"".join(pages.values()))
    expected, found = (
        [*mappings(source.memory, source.context)]
        for source in (open_source(tmp_path / name, Registers(cr3=0x1000)) for name in "rk")
    )
    assert 2 == len(found)
    assert expected == found


@pytest.mark.parametrize(("codec", "module"), [(LZO, "lzallright"), (SNAPPY, "cramjam")])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    codec, module, opened, monkeypatch
):
    content = Kdump(pages=PAGES, codec=codec).file()
    monkeypatch.setitem(sys.modules, module, None)
    expected = r"memory.kdump: kdump-compressed file: pip install 'crosswalk-x86\[kdump\]' reads it"
    with pytest.raises(BadInput, match=f"{expected}$"):
        opened(content)


WHOLE = Kdump(pages=PAGES, vmcoreinfo=INFO.encode())


@pytest.mark.parametrize(
    ("dump", "expected"),
    [
        (Kdump(pages=PAGES, machine="aarch64"), "of another machine: aarch64$"),
        (Kdump(pages=PAGES, block=65536), "blocks of 65536 bytes, not of 4096$"),
    ],
)
def test_headers_that_are_not_read_are_named(dump, expected, opened):
    with pytest.raises(BadInput, match=expected):
        opened(dump.file())


@pytest.mark.parametrize("form", [bytes, flattened])
def test_a_file_that_is_cut_off_anywhere_is_refused_when_it_is_opened(form, opened):
    content = form(WHOLE.file())
    cuts = sorted({*range(13, len(content), 997), 4096, 4200, len(content) - 1})
    for end in cuts:
        with pytest.raises(BadInput, match=r"truncated (kdump|flattened)"):
            opened(content[:end])


def test_more_frames_than_any_machine_has_are_refused(opened):
    content = bytearray(WHOLE.file())
    content[BLOCK + 96 : BLOCK + 104] = (MAX_FRAMES + 1).to_bytes(8, "little")
    with pytest.raises(LimitExceeded, match=r"17,179,869,185 frames; at most 17,179,869,184$"):
        opened(bytes(content))
    content[BLOCK + 96 : BLOCK + 104] = MAX_FRAMES.to_bytes(8, "little")
    with pytest.raises(BadInput, match="bitmaps of 8,192 bytes for 17,179,869,184 frames"):
        opened(bytes(content))


def test_more_runs_than_the_limit_are_refused(opened):
    half = 2 * MAX_RUNS // 8 + BLOCK
    content = Kdump(pages={}, frames=8 * half).file()
    content = content[: 2 * BLOCK] + b"\x55" * 2 * half
    with pytest.raises(LimitExceeded, match=r"more than 1,048,576 runs of frames$"):
        opened(content)


def damaged(change):
    """The file with the descriptor of frame 1 changed: (offset, size, flags) → the same."""
    content = bytearray(WHOLE.file())
    at = DESCRIPTORS
    old = [int.from_bytes(content[at + o : at + o + n], "little") for o, n in FIELDS]
    for (offset, size), value in zip(FIELDS, change(*old), strict=True):
        content[at + offset : at + offset + size] = value.to_bytes(size, "little")
    return bytes(content)


FIELDS = ((0, 8), (8, 4), (12, 4))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda at, size, how: (at, BLOCK + 1, how), "the page at 0x1000 has 4,097 bytes at byte"),
        (lambda at, size, how: (at, 0, how), "the page at 0x1000 has 0 bytes at byte"),
        (lambda at, size, how: (at, size - 1, how), "the page at 0x1000 is damaged: "),
        (lambda at, size, how: (at, 64, 0), "the page at 0x1000 has 64 bytes, not 4,096"),
        (lambda at, size, how: (at, size, 3), r"a page is stored in an unknown way \(0x3\)"),
        (lambda at, size, how: (at, size, LZO), "the page at 0x1000 (is damaged|has)"),
        (lambda at, size, how: (at, size, SNAPPY), "the page at 0x1000 is damaged: snappy"),
        (lambda at, size, how: (at, size, ZSTD), "the page at 0x1000 is damaged"),
    ],
)
def test_a_damaged_page_is_named_when_it_is_read_and_the_others_are_read(change, expected, opened):
    memory = opened(damaged(change)).memory
    assert PAGES[2] == memory.read(2 * BLOCK, BLOCK)
    with pytest.raises(BadInput, match=f"memory.kdump: kdump-compressed file: .*{expected}"):
        memory.read(BLOCK, BLOCK)


def test_a_page_that_lies_beyond_the_file_is_refused_when_it_is_opened(opened):
    with pytest.raises(BadInput, match="truncated kdump-compressed file: its pages end at byte"):
        opened(damaged(lambda at, size, how: (1 << 40, size, how)))


@pytest.mark.parametrize("codec", [ZLIB, LZO, SNAPPY, ZSTD])
def test_no_more_is_unpacked_than_a_page_or_a_bounded_part_of_it(codec):
    """What claims to be large isn't made room for; what is larger than a page is refused."""
    bombs = {
        ZSTD: bytes.fromhex("28b52ffde0") + (1 << 60).to_bytes(8, "little") + b"\x01\x00\x00",
        SNAPPY: b"\xff\xff\xff\xff\x0f" + bytes(64),
        LZO: b"\x00" * 64,
        ZLIB: b"\x78\x9c" + bytes(64),
    }
    with pytest.raises(ValueError, match=r"."):
        unpacker(codec, BLOCK, "test")(bombs[codec])


@pytest.mark.parametrize("form", [bytes, flattened])
def test_a_changed_file_is_read_or_refused_in_one_line(form, tmp_path):
    seed = random.Random(16)
    path = tmp_path / "memory.kdump"
    outcomes = {"": 0, "refused": 0}
    for number in range(200):
        content = bytearray(
            form(
                Kdump(
                    pages=PAGES,
                    codec=[ZLIB, LZO, SNAPPY, ZSTD][number % 4],
                    vmcoreinfo=INFO.encode(),
                    status=number % 16,
                ).file()
            )
        )
        places = [*range(0x190, 0x1D0), *range(BLOCK, BLOCK + 160)]
        for _ in range(seed.randrange(1, 4)):
            place = seed.choice(places) if seed.random() < 0.7 else seed.randrange(len(content))
            content[place] = seed.choice([0, 1, 0x7F, 0x80, 0xFF, seed.randrange(256)])
        path.write_bytes(content)
        refusal = refused(path)
        assert "\n" not in refusal
        outcomes["refused" if refusal else ""] += 1
    assert min(outcomes.values()) > 10, outcomes


def refused(path):
    """The error of a file whose first pages are read; empty where there is none."""
    try:
        memory = open_contents(path).memory
        for start, size in memory.ranges:
            memory.read(start, min(size, 64 * BLOCK))
    except CrosswalkError as error:
        return str(error)
    return ""


@pytest.fixture
def differing(tmp_path):
    if platform.machine() != "x86_64":
        pytest.skip("drgn has no wheels for other machines")
    import drgn  # noqa: PLC0415

    def differing(content):
        """The frames where drgn reads other bytes than this reader."""
        path = tmp_path / "k"
        path.write_bytes(content)
        program = drgn.Program()
        program.set_core_dump(path)
        memory = open_contents(path).memory
        return [
            number
            for number in NUMBERS
            if program.read(number * BLOCK, BLOCK, physical=True)
            != memory.read(number * BLOCK, BLOCK)
        ]

    return differing


@pytest.mark.parametrize("form", [bytes, flattened])
@pytest.mark.parametrize("codec", CODECS)
def test_drgn_reads_the_same_pages(codec, form, differing):
    dump = Kdump(pages=PAGES, codec=CODECS[codec], vmcoreinfo=INFO.encode())
    assert [] == differing(form(dump.file()))


def test_a_descriptor_taken_for_another_frames_would_be_seen_by_drgn(differing, monkeypatch):
    rank = "crosswalk.walker.formats.kdump_header.Runs.rank"
    monkeypatch.setattr(rank, lambda runs, frames: np.arange(len(frames)) + (frames[0] > 1))
    dump = Kdump(pages=PAGES, vmcoreinfo=INFO.encode())
    assert len(NUMBERS) - 5 < len(differing(dump.file()))
