from pathlib import Path

import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Registers, open_source
from crosswalk.walker.formats.unsupported import HEAD, UNREAD, unread_format

ADVICE = "(--kind raw takes the file as memory all the same)"


def reason(path, **reading):
    with pytest.raises(BadInput) as caught:
        open_source(path, Registers(cr3=0x1000), **reading)
    return str(caught.value)


@pytest.fixture
def image(tmp_path, monkeypatch):
    """Write an image of so many bytes that begins with `head`, and return its name."""
    monkeypatch.chdir(tmp_path)

    def put(head, size=0x4000):
        Path("image").write_bytes(head.ljust(size, b"\0"))
        return "image"

    return put


@pytest.mark.parametrize("at", range(len(UNREAD)), ids=[str(at) for at in range(len(UNREAD))])
def test_each_format_is_refused_by_name_with_what_would_read_it(at, image):
    known = UNREAD[at]
    path = image(bytes(known.offset) + known.magic, size=0x10000)

    assert f"image: {known.name}: {known.advice} {ADVICE}" == reason(path, unpack_limit=0)
    assert "raw" == open_source(path, Registers(cr3=0x1000), kind="raw", unpack_limit=0).kind


def test_a_file_that_is_no_raw_image_by_its_size_is_not_said_to_be_taken_for_one(image):
    path = image(b"PAGEDU64\x0f\0\0\0", size=0x4020)
    assert ADVICE not in reason(path)
    with pytest.raises(BadInput, match="16416 bytes are not a multiple of 4096"):
        open_source(path, Registers(cr3=0x1000), kind="raw")


@pytest.mark.parametrize(
    ("head", "begins"),
    [
        (b"DISKDUMP", "diskdump file: "),
        (b"MDMP\x93\xa7", "Windows minidump: "),
        (b"\x7fVirtualBox SavedState V2.0\n", "VirtualBox saved state: "),
        (bytes(4086) + b"S1SUSPEND\0", "Linux hibernation image: "),
        (b"HIBR", "Windows hibernation file: "),
        (b"QFI\xfb\0\0\0\x03", "qcow2 disk image: "),
        (b"\x1f\x8b\x08", "gzip file: unpack it first"),
        (b"\xfd7zXZ\0", "xz file: unpack it first"),
        (b"\x28\xb5\x2f\xfd", "zstd file: unpack it first"),
        (b"BZh9", "bzip2 file: unpack it first"),
        (b"\x04\x22\x4d\x18", "lz4 file: unpack it first"),
        (b"PK\x03\x04", "zip archive: unpack it first"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "7z archive: unpack it first"),
        (bytes(257) + b"ustar\x0000", "tar archive: unpack it first"),
        (b"\xcf\xfa\xed\xfe\x07\0\0\x01", "Mach-O file: "),
        (b"MZ\x90\0", "PE file: "),
    ],
)
def test_the_beginnings_of_files_that_people_have_are_known(head, begins, image):
    assert reason(image(head), unpack_limit=0).startswith(f"image: {begins}")


def test_a_format_of_odd_length_is_named_all_the_same(image):
    assert reason(image(b"MDMP", size=0x1003)).startswith("image: Windows minidump: ")


def test_a_file_shorter_than_a_magic_or_with_it_elsewhere_is_none():
    assert None is unread_format(b"EMi")
    assert None is unread_format(b"\0MDMP".ljust(HEAD, b"\0"))
    assert None is unread_format(bytes(HEAD))


def test_no_format_hides_behind_another():
    for known in UNREAD:
        assert known is unread_format(bytes(known.offset) + known.magic)


def test_the_page_about_sources_names_every_format():
    page = (Path(__file__).parents[3] / "docs" / "sources.md").read_text().lower()
    assert [] == [known.name for known in UNREAD if known.name.split()[0].lower() not in page]
