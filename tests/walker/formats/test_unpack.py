import bz2
import lzma
import mmap
import os
import random
import resource
import struct
import tarfile
import zlib
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats import Case, Cpu, Registers, dump_case, open_contents, open_source
from crosswalk.walker.formats import unpack as unpack_module
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.holes import allocates_when_read
from crosswalk.walker.formats.unpack import WINDOW, compression_of, unpack
from tests.packing import gzipped

FRAME = 0x1000
PACK = {
    "gzip": gzipped,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bzip2": bz2.compress,
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
}
TEXT = random.Random(16).randbytes(FRAME)
IMAGE = TEXT + bytes(0x40000) + TEXT[:5] + bytes(0x1FFB) + TEXT + bytes(0x20000)
STORED = 2 * FRAME + 5
SKIPPED = b"\x53\x2a\x4d\x18\x03\0\0\0abc"

SHARED = Path("/dev/shm")  # noqa: S108  # A tmpfs, where there is one at all.

each_compression = pytest.mark.parametrize("name", PACK)


@pytest.fixture
def folder(tmp_path):
    """A folder for what is unpacked; nothing may ever be seen in it."""
    place = tmp_path / "unpacked"
    place.mkdir()
    yield place
    assert [] == list(place.iterdir())


@pytest.fixture
def hidden(monkeypatch):
    """The descriptor of the file without a name, once it has been mapped."""
    found = []
    whole = unpack_module.mapped_with_holes

    def mapped(descriptor, *others):
        found.append(os.dup(descriptor))
        return whole(descriptor, *others)

    monkeypatch.setattr(unpack_module, "mapped_with_holes", mapped)
    yield found
    for each in found:
        os.close(each)


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(data, name="image"):
        Path(name).write_bytes(data)
        return name

    return write


def unpacked(path, folder, **options):
    file, text = unpack(map_file(path), folder=folder, **options)
    return file.data[:], text


def refused(path, folder, **options):
    with pytest.raises(BadInput) as caught:
        unpack(map_file(path), folder=folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@each_compression
def test_a_file_is_unpacked_to_a_file_without_a_name_that_stores_no_frames_of_zeros(
    name, put, folder, hidden
):
    file, text = unpack(map_file(put(PACK[name](IMAGE))), folder=folder)
    assert IMAGE == file.data[:]
    size, stored = text.removeprefix(f"{name}, ").removesuffix(" of them stored").split(" bytes, ")
    assert f"{len(IMAGE):,}" == size
    # What is in a frame may come in two parts.
    assert STORED <= int(stored.replace(",", "")) <= STORED + 2 * FRAME
    held = os.fstat(hidden[0])
    assert (len(IMAGE), 0) == (held.st_size, held.st_nlink)
    assert 512 * held.st_blocks <= 4 * FRAME


def test_reading_the_holes_adds_nothing_to_a_file_in_memory(put, hidden):
    # Through a plain mapping, each page that is read there is allocated; the twin shows that.
    if not SHARED.is_dir() or not os.access(SHARED, os.W_OK):
        pytest.skip(f"no {SHARED} to write to")
    file, _ = unpack(map_file(put(PACK["zstd"](IMAGE))), folder=SHARED)
    if not allocates_when_read(hidden[0]):
        pytest.skip(f"{SHARED} is no tmpfs")
    before = os.fstat(hidden[0]).st_blocks
    assert 512 * before <= 4 * FRAME
    assert (IMAGE, before) == (file.data[:], os.fstat(hidden[0]).st_blocks)
    plain = mmap.mmap(hidden[0], len(IMAGE), access=mmap.ACCESS_READ)
    assert IMAGE == plain[:]
    assert os.fstat(hidden[0]).st_blocks > before


@each_compression
def test_a_file_with_more_parts_than_are_mapped_reads_the_same(name, put, folder, monkeypatch):
    monkeypatch.setattr(unpack_module, "MOST_RUNS", 8)
    chance = random.Random(name)
    parts = [TEXT + bytes(FRAME * (1 << chance.randrange(9))) for _ in range(60)]
    image = b"".join(parts) + b"end"
    kept = []
    whole = unpack_module.mapped_with_holes
    monkeypatch.setattr(
        unpack_module, "mapped_with_holes", lambda *given: [kept.append(given[2]), whole(*given)][1]
    )
    assert image == unpacked(put(PACK[name](image)), folder)[0]
    assert 1 < len(kept[0]) <= 8


def test_holes_that_are_mapped_are_stored_where_they_would_take_memory(put, folder, monkeypatch):
    monkeypatch.setattr(unpack_module, "MOST_RUNS", 1)
    path = put(PACK["xz"](TEXT + bytes(63 * FRAME) + TEXT))
    for fills, stored in ((False, 2), (True, 65)):
        monkeypatch.setattr(unpack_module, "allocates_when_read", lambda _, fills=fills: fills)
        assert f"{stored * FRAME:,} of them stored" in unpacked(path, folder)[1]


@each_compression
def test_a_mapping_that_is_gone_has_closed_its_file(name, put, folder):
    # What is listed here are no files to a Path.
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    file, _ = unpack(map_file(put(PACK[name](IMAGE))), folder=folder)
    del file
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@each_compression
def test_streams_follow_each_other_with_zeros_between_them(name, put, folder):
    pack = PACK[name]
    parts = (pack(IMAGE), pack(b""), pack(b"12345"), bytes(5000), pack(IMAGE), bytes(8))
    assert IMAGE + b"12345" + IMAGE == unpacked(put(b"".join(parts)), folder)[0]


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_frames_to_be_skipped_are_skipped(name, put, folder):
    whole = SKIPPED + PACK[name](IMAGE) + SKIPPED + PACK[name](b"12345") + SKIPPED
    assert name == compression_of(whole).name
    assert IMAGE + b"12345" == unpacked(put(whole), folder)[0]
    said = refused(put(whole[:-1]), folder)
    assert f"truncated {name} file: it ends at byte {len(whole) - 1:,}, within a frame" in said


@each_compression
def test_of_a_truncated_file_the_place_is_named(name, put, folder):
    first, second = PACK[name](b"12345"), PACK[name](IMAGE)
    whole = first + second
    for end in (len(whole) - 1, len(whole) - len(second) // 2, len(first) + 8):
        expected = (
            f"truncated {name} file: it ends at byte {end:,}, within the stream that begins at "
            f"byte {len(first)}"
        )
        assert expected == refused(put(whole[:end]), folder)


@each_compression
def test_of_a_damaged_file_the_place_is_named(name, put, folder):
    whole = bytearray(PACK[name](IMAGE))
    at = len(whole) // 2
    whole[at] ^= 0x10
    said = refused(put(bytes(whole)), folder)
    assert said.startswith(f"damaged {name} file, between bytes ")
    _, first, _, last = said.partition(": ")[0].rsplit(" ", 3)
    assert int(first.replace(",", "")) <= len(whole)
    assert int(last.replace(",", "")) > at
    good = PACK[name](b"1")
    assert (
        f"damaged {name} file: at byte {len(good)}, behind a stream, there is neither another one "
        "nor zeros"
    ) == refused(put(good + b"more"), folder)


@each_compression
def test_what_is_damaged_anywhere_is_refused_or_read_as_it_was(name, put, folder):
    chance = random.Random(name)
    whole = PACK[name](IMAGE)
    same = 0
    for _ in range(150):
        data = bytearray(whole)
        if chance.randrange(2):
            data[chance.randrange(6, len(data))] ^= 1 << chance.randrange(8)
        else:
            del data[chance.randrange(6, len(data)) :]
        try:
            same += IMAGE == unpacked(put(bytes(data)), folder)[0]
        except CrosswalkError as error:
            # pytest.raises would demand one.
            assert "\n" not in str(error)  # noqa: PT017
        else:
            continue
    assert same < 75


@each_compression
def test_what_unpacks_to_more_than_the_limit_is_refused_with_the_option(name, put, folder):
    path = put(PACK[name](bytes(1 << 20)))
    assert bytes(1 << 20) == unpacked(path, folder, limit=1 << 20)[0]
    with pytest.raises(LimitExceeded) as caught:
        unpack(map_file(path), folder=folder, limit=(1 << 20) - 1)
    assert (
        f"{name} file that unpacks to more than 1,048,575 bytes: --unpack-limit allows more"
    ) == str(caught.value)


def test_a_decoder_that_takes_too_much_memory_is_refused(put, folder):
    wide = zstandard.ZstdCompressionParameters(window_log=31)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    zstd = stream.compress(TEXT) + stream.flush()
    xz = bytearray(lzma.compress(TEXT))
    # The header of the first block: its size, flags, filter LZMA2 and the dictionary: 2 GiB.
    assert b"\x02\x00\x21\x01" == xz[12:16]
    xz[16] = 38
    xz[20:24] = struct.pack("<I", zlib.crc32(xz[12:20]))
    for name, data in (("zstd", zstd), ("xz", bytes(xz))):
        with pytest.raises(LimitExceeded) as caught:
            unpack(map_file(put(data)), folder=folder)
        assert (
            f"{name} file whose decoder takes more than {WINDOW:,} bytes of memory: unpack it first"
        ) == str(caught.value)


def test_where_nothing_can_be_stored_the_option_is_named(put, tmp_path, folder):
    path = put(PACK["gzip"](IMAGE))
    advice = "(--unpack-to names another folder)"
    missing = tmp_path / "none"
    assert f"can't unpack to {missing}: no such file or directory {advice}" == refused(
        path, missing
    )
    assert f"can't unpack to {path}: not a directory {advice}" == refused(path, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FRAME + 100, limits[1]))
    try:
        said = refused(path, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"can't unpack to {folder}: file too large {advice}" == said


def test_a_tmpdir_that_cannot_be_written_to_is_named(put, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    assert (
        f"can't unpack to {tmp_path / 'none'}: no such file or directory "
        "(--unpack-to names another folder)"
    ) == refused(put(PACK["gzip"](IMAGE)), None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert IMAGE == unpacked("image", None)[0]


def test_what_holds_nothing_or_is_not_compressed_is_refused(put, folder):
    assert "holds nothing" == refused(put(PACK["xz"](b"")), folder)
    assert "not a compressed file" == refused(put(bytes(FRAME)), folder)


def test_progress_is_said_whenever_the_size_has_doubled(put, folder):
    said = []
    part = PACK["zstd"](bytes(32 << 20))
    unpacked(put(PACK["zstd"](TEXT) + 20 * part), folder, notice=said.append)
    assert 2 == len(said)
    sizes = [int(line.split(", ", 1)[1].split(" bytes")[0].replace(",", "")) for line in said]
    assert 256 << 20 <= sizes[0] <= 288 << 20
    assert 2 * sizes[0] <= sizes[1] <= 2 * sizes[0] + (32 << 20)
    assert f"image: unpacking, {sizes[0]:,} bytes, 4,096 of them stored in {folder}" == said[0]


@each_compression
def test_anything_that_is_read_is_read_compressed(name, put, elf):
    pack = PACK[name]
    case = dump_case(Case(cpu=Cpu(cr3=0x1000), ram=((0, 0x4000),), entries={0x1000: 0x2067}))
    lime = struct.pack("<4sIQQQ", b"EMiL", 1, 0, len(IMAGE) - 1, 0) + IMAGE
    core = elf.Core(loads=[(0, IMAGE)]).build()
    for kind, data in (("case", case), ("lime", lime), ("elf", core), ("raw", IMAGE)):
        source = open_source(put(pack(data)), Registers(cr3=0x1000))
        assert kind == source.kind
        assert source.unpacked.startswith(f"{name}, {len(data):,} bytes, ")
        expected = open_source(put(data), Registers(cr3=0x1000))
        assert "" == expected.unpacked
        assert expected.context == source.context
        assert expected.memory.read(0, 0x4000) == source.memory.read(0, 0x4000)


def test_a_name_counts_without_the_ending_of_the_compression(put):
    path = put(PACK["xz"](b"[]"), "x.json.xz")
    with pytest.raises(BadInput, match=r"^x\.json\.xz: \$: Expected `object`, got `array`"):
        open_contents(path)


def test_what_is_compressed_twice_or_not_read_is_refused_by_name(put, tmp_path):
    with pytest.raises(BadInput, match=r"^image: gzip file: unpack it first"):
        open_contents(put(PACK["xz"](PACK["gzip"](IMAGE))))
    # A format is refused as soon as it shows: before the limit is reached.
    Path("zeros").write_bytes(bytes(1 << 20))
    with tarfile.open(tmp_path / "archive.tar.xz", "w:xz") as archive:
        archive.add("zeros")
    with pytest.raises(BadInput, match=r"^archive\.tar\.xz: tar archive: unpack it first$"):
        open_contents("archive.tar.xz", unpack_limit=1 << 18)


def test_with_a_limit_of_0_nothing_is_unpacked(put):
    path = put(PACK["gzip"](TEXT).ljust(0x4000, b"\0"))
    with pytest.raises(BadInput, match=r"^image: gzip file: unpack it first .--kind raw takes"):
        open_contents(path, unpack_limit=0)
    contents = open_contents(path, unpack_limit=0, kind="raw")
    assert ("gzip file", "") == (contents.begins_as, contents.unpacked)
    assert TEXT == open_contents(path, kind="raw").memory.read(0, FRAME)
