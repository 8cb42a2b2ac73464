"""Options that say how SOURCE is read: compressed files, and memory maps of raw images."""

import argparse
import json
import lzma

import pytest

from crosswalk.emu.cli.options import UNPACK_LIMIT, size
from crosswalk.walker.formats import unpack
from tests.emu.cli.incomplete_images import RAM, ROOT, clean

IMAGE = clean().memory.read(*RAM[0])


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "image.xz"
    path.write_bytes(lzma.compress(IMAGE))
    return path


@pytest.fixture
def moved(tmp_path):
    """The image behind a page of something else, and the map that puts it where it belongs."""
    path, pieces = tmp_path / "moved", tmp_path / "pieces.json"
    path.write_bytes(b"\xff" * 0x1000 + IMAGE)
    piece = {"offset": "0x1000", "pa": "0x0", "size": hex(len(IMAGE))}
    pieces.write_text(json.dumps({"format": "crosswalk-memory-map/1", "pieces": [piece]}))
    return path, pieces


def test_a_compressed_file_is_walked_as_what_it_holds(run, image, packed, tmp_path):
    plain, ran = run("walk", image, *ROOT), run("walk", packed, *ROOT, "--unpack-to", tmp_path)
    assert (0, plain.out) == (ran.status, ran.out)
    said = f"{packed}: raw image (unpacked from xz, 65,536 bytes, "
    assert ran.err.startswith(said)
    assert run("info", packed, *ROOT).out.startswith(said)
    record = json.loads(run("info", packed, *ROOT, "--json").out)
    assert record["unpacked"].startswith("xz, 65,536 bytes, ")
    assert "" == json.loads(run("info", image, *ROOT, "--json").out)["unpacked"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--unpack-limit", "4K"), "xz file that unpacks to more than 4,096 bytes: --unpack-limit"),
        (("--unpack-limit", "0"), "xz file: unpack it first"),
        (("--unpack-to", "/none"), "can't unpack to /none: no such file or directory (--unpack-to"),
    ],
)
def test_what_is_not_unpacked_is_an_error_of_one_line(options, expected, run, packed):
    ran = run("walk", packed, *ROOT, *options)
    assert (2, "") == (ran.status, ran.out)
    assert f"crosswalk: error: {packed}: {expected}" == ran.err[: 20 + len(f"{packed}{expected}")]
    assert 1 == len(ran.err.splitlines())


def test_pieces_of_an_image_are_placed_by_options_and_files(run, image, moved):
    path, pieces = moved
    plain = run("walk", image, *ROOT)
    for options in (
        ("--memory-map", f"4K:0:{len(IMAGE)}"),
        ("--memory-map", "0x1000:0:0x8000", "--memory-map", "36K:0x8000:32K"),
        ("--memory-map", pieces),
        ("--memory-map", f"@{pieces}"),
    ):
        ran = run("walk", path, *ROOT, *options)
        assert (0, plain.out) == (ran.status, ran.out)
        assert ran.err.startswith(f"{path}: raw image by a memory map, 64 KiB in 1 range; ")


def test_a_map_that_can_not_be_is_an_error_of_one_line(run, moved):
    ran = run("walk", moved[0], *ROOT, "--memory-map", "0:0:1G")
    assert (2, "") == (ran.status, ran.out)
    assert (
        f"crosswalk: error: {moved[0]}: memory map: the piece 0x0:0x0:0x40000000 ends at byte "
        "1,073,741,824, the file at 69,632\n"
    ) == ran.err
    ran = run("walk", "guest:4level", "--memory-map", "pc:3G")
    assert (2, 1) == (ran.status, len(ran.err.splitlines()))


def test_the_file_of_a_map_is_not_overwritten(run, moved):
    path, pieces = moved
    for given in (pieces, f"@{pieces}"):
        ran = run("walk", path, *ROOT, "--memory-map", given, "--summary", pieces)
        assert 2 == ran.status
        assert f"{pieces}: is read, and --summary would overwrite it" in ran.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("0x1000", 4096), ("4K", 4096), ("1_0m", 10 << 20), ("64G", 1 << 36)],
)
def test_a_size_is_a_number_with_or_without_a_unit(text, expected):
    assert expected == size(text)


@pytest.mark.parametrize("text", ["", "K", "4Q", "4KK", "-4K", "4 kB", "0xffffffffffffffffK"])
def test_anything_else_is_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError):
        size(text)


def test_the_default_limit_is_the_librarys():
    assert unpack.UNPACK_LIMIT == UNPACK_LIMIT
