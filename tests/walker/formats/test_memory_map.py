import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats import (
    Contents,
    Registers,
    SourceKind,
    open_contents,
    open_source,
)
from crosswalk.walker.formats.memory_map import MAX_PIECES, PRESETS, Piece, pieces_of, placed
from crosswalk.walker.formats.suggested_map import map_with, suggested_map
from crosswalk.walker.frames import count_mappings
from crosswalk.walker.memory import Segments
from crosswalk.walker.roots import find_roots

MIB, GIB = 1 << 20, 1 << 30
LOW, HIGH = b"\x11" * 0x2000, b"\x22" * 0x1000
IMAGE = LOW + HIGH


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(data, name="image"):
        Path(name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return name

    return write


@pytest.mark.parametrize(
    "memory_map",
    [
        ["0:0:8K", "8192:4G:0x1000"],
        ["0x2000:0x100000000:4K", "0:0:0x8K"],
        [Piece(0, 0, 0x2000), "8k:4g:4k"],
        ["8_192:0x1_0000_0000:4_096", "0:0:8K"],
        ["pc:8K"],
    ],
    ids=str,
)
def test_pieces_lie_at_their_addresses(memory_map):
    memory = placed(IMAGE, memory_map)
    assert [(0, 0x2000), (4 * GIB, 0x1000)] == list(memory.ranges)
    assert LOW + HIGH == memory.read(0, 0x2000) + memory.read(4 * GIB, 0x1000)


def test_pieces_may_have_bytes_in_common_and_leave_some_out():
    memory = placed(IMAGE + b"rest", ["0x2000:0:4K", "0x2000:0x5000:4K"])
    assert [(0, 0x1000), (0x5000, 0x1000)] == list(memory.ranges)
    assert HIGH == memory.read(0x5000, 0x1000)


@pytest.mark.parametrize(
    ("name", "at_most", "below"),
    [
        # As QEMU 7.2 has them in `info mtree`, with a memory-backend-file of these sizes.
        ("qemu-pc", 3583 * MIB, 3 * GIB),
        ("qemu-q35", 2815 * MIB, 2 * GIB),
        ("qemu-microvm", 3072 * MIB, 3 * GIB),
        # As their sources and documentation say.
        ("vmware", 3072 * MIB, 3 * GIB),
        ("firecracker", 3328 * MIB, 3328 * MIB),
        ("cloud-hypervisor", 3072 * MIB, 3 * GIB),
    ],
)
def test_presets_have_a_hole_from_a_size_on(name, at_most, below):
    assert (Piece(0, 0, at_most),) == pieces_of([name], at_most)
    more = at_most + MIB
    expected = (Piece(0, 0, below), Piece(below, 4 * GIB, more - below))
    assert expected == pieces_of([name], more)


def test_an_image_without_ram_above_the_hole_is_one_piece():
    assert (Piece(0, 0, GIB),) == pieces_of(["pc:3G"], GIB)
    assert (Piece(0, 0, 3 * GIB),) == pieces_of(["pc:0xc0000000"], 3 * GIB)


@pytest.mark.parametrize(
    ("memory_map", "expected"),
    [
        (
            ["0:0:8K", "8K:4K:4K"],
            "the pieces 0x0:0x0:0x2000 and 0x2000:0x1000:0x1000 overlap at 0x",
        ),
        (["0:0:16K"], "the piece 0x0:0x0:0x4000 ends at byte 16,384, the file at 12,288"),
        (["16K:0:4K"], "the piece 0x4000:0x0:0x1000 ends at byte 20,480, the file at 12,288"),
        (["0:0:100"], "the piece 0x0:0x0:0x64 isn't of whole frames of 4096 bytes"),
        (["0:8:4K"], "the piece 0x0:0x8:0x1000 isn't of whole frames of 4096 bytes"),
        (["1:0:4K"], "the piece 0x1:0x0:0x1000 isn't of whole frames of 4096 bytes"),
        (["0:0:0"], "the piece 0x0:0x0:0x0 isn't of whole frames of 4096 bytes"),
        (["0:0x10000000000000:4K"], "the piece 0x0:0x10000000000000:0x1000 ends beyond 52 bits"),
        (["0:0xfffffffffffffT:4K"], "the piece 0x0:0xfffffffffffff0000000000:0x1000 ends beyond"),
    ],
)
def test_pieces_that_can_not_be_are_refused_by_name(memory_map, expected):
    with pytest.raises(BadInput) as caught:
        placed(IMAGE, memory_map)
    assert str(caught.value).startswith(f"memory map: {expected}")


@pytest.mark.parametrize(
    ("memory_map", "expected"),
    [
        (
            ["0:0"],
            "memory map 0:0: is neither FILE_OFFSET:PA:SIZE nor pc:SIZE, no file (@FILE, or ",
        ),
        (["-1:0:4K"], "memory map -1:0:4K: is neither"),
        (["0:0:4Q"], "memory map 0:0:4Q: is neither"),
        (["0:0:4K\n"], "memory map 0:0:4K\\n: is neither"),
        (["qemu"], "memory map qemu: is neither"),
        (["pc:4K", "0:0:4K"], "memory map pc:4K: is a whole map; there are no pieces beside it"),
        (["0:0:4K", "vmware"], "memory map vmware: is a whole map; there are no pieces beside it"),
        (["1__0:0:4K"], "memory map 1__0:0:4K: is neither"),
        ([f"{'9' * 5000}:0:4K"], f"memory map {'9' * 199}…: is neither"),
        (["pc:0"], "memory map pc:0: the RAM below the hole is a multiple of 4096 bytes, and at"),
        (["pc:5G"], "memory map pc:5G: the RAM below the hole is a multiple of 4096 bytes"),
        (["pc:100"], "memory map pc:100: the RAM below the hole is a multiple of 4096 bytes"),
        (["@none"], "none: no such file or directory"),
        (["none.json"], "none.json: no such file or directory"),
    ],
)
def test_a_text_that_is_no_map_is_refused(memory_map, expected, put):
    put(b"")
    with pytest.raises(BadInput) as caught:
        placed(IMAGE, memory_map)
    assert str(caught.value).startswith(expected)


def test_a_hole_in_an_image_of_parts_of_frames_is_refused():
    with pytest.raises(BadInput, match="raw image: 12289 bytes are not a multiple of 4096"):
        placed(IMAGE + b"1", ["pc:8K"])


def test_pieces_beyond_the_limit_are_not_read():
    with pytest.raises(LimitExceeded, match="65537 pieces; at most 65536 are read"):
        pieces_of([Piece(0, 0, 0x1000)] * (MAX_PIECES + 1), 0x1000)


def document(*pieces, **more):
    names = ("offset", "pa", "size")
    rows = [dict(zip(names, map(hex, piece), strict=True)) for piece in pieces]
    return {"format": "crosswalk-memory-map/1", "pieces": rows, **more}


def test_pieces_are_read_from_files_of_any_name(put):
    pieces = document((0, 0, 0x2000), (0x2000, 4 * GIB, 0x1000))
    for text in (put(pieces, "map.json"), f"@{put(pieces, 'map')}"):
        assert [(0, 0x2000), (4 * GIB, 0x1000)] == list(placed(IMAGE, [text]).ranges)
    put(document((0x2000, 4 * GIB, 0x1000)), "high.json")
    assert 2 == len(placed(IMAGE, ["0:0:8K", "high.json"]).ranges)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "map.json: not JSON: "),
        (document(), "map.json: $.pieces: "),
        (document((0, 0, 0x1000), name="x"), "map.json: $: "),
        ({"format": "crosswalk-memory-map/1"}, "map.json: $: "),
        (document() | {"format": "crosswalk-case/1"}, "map.json: $.format: 'crosswalk-case/1' is"),
        (document() | {"pieces": [{"offset": 0, "pa": "0x0", "size": "0x1000"}]}, "map.json: $.p"),
    ],
    ids=["no JSON", "no piece", "unknown key", "no pieces", "another format", "a number"],
)
def test_a_file_that_is_no_map_is_refused_with_the_place(content, expected, put):
    put(content, "map.json")
    with pytest.raises(BadInput) as caught:
        placed(IMAGE, ["map.json"])
    assert str(caught.value).startswith(expected)


def test_a_map_is_for_raw_images_and_goes_without_a_base(put, elf):
    path = put(IMAGE)
    contents = open_contents(path, memory_map=["pc:8K"])
    assert ("raw", "raw image by a memory map") == (contents.kind, contents.format)
    assert 2 == len(contents.memory.ranges)
    with pytest.raises(BadInput, match="image: a base and a memory map: either places the image"):
        open_contents(path, memory_map=["pc:8K"], base=0x1000)
    core = put(elf.Core().build(), "core")
    with pytest.raises(BadInput, match="core: a memory map: only a raw image can be placed"):
        open_contents(core, memory_map=["pc:8K"])


def test_damaged_maps_are_read_or_refused_in_one_line(put):
    chance = random.Random(16)
    whole = json.dumps(document((0, 0, 0x2000), (0x2000, 4 * GIB, 0x1000))).encode()
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.randrange(4) == 0:
            del data[chance.randrange(len(data)) :]
        put(bytes(data or b"{"), "map.json")
        try:
            placed(IMAGE, ["map.json"])
        except CrosswalkError as error:
            refused += 1
            # pytest.raises would demand one.
            assert "\n" not in str(error)  # noqa: PT017
    assert 100 < refused < 400


def holed(below, size):
    """Return an image of so many bytes, mostly a hole itself, whose tables lie above the hole."""
    image = np.zeros(size // 8, np.uint64)
    table = 4 * GIB

    def put(pa, value):
        offset = pa if pa < below else pa - 4 * GIB + below
        image[offset // 8] = value

    put(0x1000, table + 0x67)
    put(table, table + 0x1067)
    put(table + 0x1000, table + 0x2067)
    for at in range(16):
        put(table + 0x2000 + 8 * at, (at << 12) + 0x67)
    return image.view(np.uint8)


@pytest.mark.parametrize(("below", "expected"), [(2 * GIB, "pc:2G"), (3328 * MIB, "pc:3328M")])
def test_the_map_that_makes_sense_of_an_image_is_suggested(below, expected):
    image = holed(below, 3840 * MIB)
    memory, context = Segments([(0, image)]), PagingContext(cr3=0x1000)
    text, without, left = suggested_map(memory, context)
    assert (expected, 1, 0) == (text, without.outside, len(left))
    assert 16 == sum(count_mappings(placed(image, [text]), context).values())
    # One map makes sense, so there is nothing to suggest any more.
    assert None is suggested_map(placed(image, [text]), context)


def test_where_no_map_makes_sense_none_is_suggested():
    image = np.zeros(3840 * MIB // 8, np.uint64)
    image[0x1000 // 8] = (1 << 39) + 0x67
    memory = Segments([(0, image.view(np.uint8))])
    assert None is suggested_map(memory, PagingContext(cr3=0x1000))
    assert None is suggested_map(Segments([(0, IMAGE)]), PagingContext(cr3=0x1000))


@pytest.mark.slow
def test_a_root_of_vmcoreinfo_that_a_map_would_find_is_named():
    image = holed(3 * GIB, 3840 * MIB)
    text = b"OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)=ffffffff80001000\nNUMBER(phys_base)=4294967296\n"
    # The table at 4 GiB + 0x1000 makes sense as a root, too.
    image[0x5000 : 0x5000 + len(text)] = np.frombuffer(text, np.uint8)
    plain = Contents(name="image", kind=SourceKind.RAW, memory=Segments([(0, image)]))
    expected = (
        "VMCOREINFO names root 0x100001000, which makes sense with --memory-map pc:3G (the RAM "
        "below a PC's hole)"
    )
    assert expected in find_roots(plain).remarks
    mapped = find_roots(replace(plain, memory=placed(image, ["pc:3G"])), until_one=True)
    assert (4 * GIB + 0x1000, "vmcoreinfo") == (mapped[0].context.root, mapped[0].source)
    assert () == mapped.remarks


def test_a_root_above_the_hole_is_found_by_a_map(put):
    path = put(b"")
    with Path(path).open("r+b") as file:
        file.truncate(3840 * MIB)
    memory = open_contents(path).memory
    assert "pc:2G" == map_with(memory, 4 * GIB)
    assert None is map_with(memory, 8 * GIB)
    with pytest.raises(BadInput) as caught:
        open_source(path, Registers(cr3=4 * GIB))
    assert str(caught.value).endswith(
        "; with --memory-map pc:2G (the RAM below a PC's hole) it would point into it"
    )
    source = open_source(path, Registers(cr3=4 * GIB), memory_map=["pc:2G"])
    assert 4 * GIB == source.context.cr3


def test_presets_are_those_of_the_documentation():
    page = (Path(__file__).parents[3] / "docs/sources.md").read_text(encoding="utf-8")
    for name in PRESETS:
        assert f"| `{name}` |" in page
