"""/proc/kcore, as a sparse file of 8 TiB with the same headers, under a folder like a procfs."""

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import Registers, SourceKind, files, open_contents, open_source
from crosswalk.walker.formats import kcore as module
from crosswalk.walker.formats.kcore import cpu_registers, is_kcore, read_kcore

NOWHERE = (1 << 64) - 1
DIRECT, IMAGE, VMALLOC = 0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8100_0000, 0xFFFF_C900_0000_0000
LOW, HIGH = b"\x11" * 0x9000, b"\x22" * 0x40000
RANGES = [(0x1000, 0x9000), (0x100000, 0x40000)]
VMCOREINFO = "OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)=ffffffff82610000\n"


class Kcore:
    """What of a kcore is written where: segments are (vaddr, paddr, size)."""

    segments = (
        (IMAGE, 0x101000, 0x8000),
        (VMALLOC, NOWHERE, 0x1FFF_FFFF_FFFF),
        (DIRECT + 0x1000, 0x1000, 0x9000),
        (DIRECT + 0x100000, 0x100000, 0x40000),
    )

    def __init__(self, elf):
        self.notes = elf.note(b"CORE\0", 1, bytes(336))
        self.notes += elf.note(b"VMCOREINFO\0", 0, VMCOREINFO.encode())

    def place(self, vaddr):
        # As fs/proc/kcore.c places them.
        return (vaddr & 0x7FFF_FFFF_FFFF) + 0x4000

    def write(self, path, *, size=1 << 43):
        """Write a file of this size: what of segments lies below it is there."""
        headers = [(4, 0, 0x200, 0, 0, len(self.notes), 0, 0)]
        headers += [
            (1, 7, self.place(vaddr) % size, vaddr, paddr, min(length, size // 2), length, 0x1000)
            for vaddr, paddr, length in self.segments
        ]
        first = struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01",
            *(4, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0),
        )
        with path.open("wb") as file:
            file.truncate(size)
            file.write(first + b"".join(struct.pack("<IIQQQQQQ", *each) for each in headers))
            for at, content in (
                (0x200, self.notes),
                (self.place(DIRECT + 0x1000) % size, LOW),
                (self.place(DIRECT + 0x100000) % size, HIGH),
            ):
                file.seek(at)
                file.write(content)


@pytest.fixture
def kcore(elf):
    return Kcore(elf)


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "self").mkdir()
    return tmp_path / "kcore"


def frames(*addresses):
    return np.array(addresses, np.uint64)


def test_the_direct_map_is_physical_memory_read_and_not_mapped(kcore, proc):
    kcore.write(proc)
    contents = open_contents(proc)
    memory = contents.memory
    assert (SourceKind.KCORE, RANGES) == (contents.kind, list(memory.ranges))
    assert [0x1111111111111111, 0x2222222222222222, None] == [
        memory.word(pa) for pa in (0x1000, 0x13FFF8, 0xA000)
    ]
    found = memory.tables(frames(0x2000, 0x3000, 0x9000, 0x140000, 0x100000))
    assert [0x11] * 3 + [0, 0x22] == [int(word) & 0xFF for word in found[:, 511]]
    assert str(proc) not in Path("/proc/self/maps").read_text()


def test_the_kernels_image_is_read_through_the_direct_map(kcore, proc):
    # The file has zeros for what the kernel has unmapped in its image.
    kcore.write(proc)
    assert 0x2222222222222222 == read_kcore(str(proc)).memory.word(0x101000)


def test_the_image_is_all_there_is_where_no_other_segment_has_an_address(kcore, proc):
    kcore.segments = kcore.segments[:2]
    kcore.write(proc)
    memory = read_kcore(str(proc)).memory
    assert ([(0x101000, 0x8000)], 0) == (list(memory.ranges), memory.word(0x101000))


def test_a_file_elsewhere_has_the_image_too(kcore, tmp_path):
    kcore.segments = ((IMAGE, 0x800000, 0x8000), (DIRECT + 0x1000, 0x1000, 0x9000))
    kcore.write(tmp_path / "core")
    memory = open_contents(tmp_path / "core", kind="kcore").memory
    assert [(0x1000, 0x9000), (0x800000, 0x8000)] == list(memory.ranges)


def test_segments_without_a_physical_address_are_left_aside_and_counted(kcore, proc):
    kcore.write(proc)
    said = []
    open_contents(proc, notice=said.append)
    assert ["1 segments have no physical address, and are left aside"] == said


def test_notes_and_vmcoreinfo_are_there(kcore, proc):
    kcore.write(proc)
    contents = read_kcore(str(proc))
    assert [("CORE", 1, 336), ("VMCOREINFO", 0, len(VMCOREINFO))] == list(contents.notes)
    assert VMCOREINFO == contents.vmcoreinfo
    assert ("x86-64", "running machine's memory (/proc/kcore)") == (
        contents.machine,
        contents.format,
    )


CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
flags\t\t: fpu pse {}syscall nx
address sizes\t: 46 bits physical, 57 bits virtual

processor\t: 1
vendor_id\t: GenuineIntel
"""


@pytest.mark.parametrize(("flag", "page1gb"), [("pdpe1gb ", True), ("", False)])
def test_what_cpuinfo_says_of_the_machine_is_known(kcore, proc, flag, page1gb):
    kcore.write(proc)
    proc.with_name("cpuinfo").write_text(CPUINFO.format(flag))
    expected = Registers(vendor="amd", maxphyaddr=46, page1gb=page1gb)
    assert expected == read_kcore(str(proc)).registers


@pytest.mark.parametrize("text", ["", "vendor_id: Other\naddress sizes: many\n", "\n\n" + CPUINFO])
def test_what_cpuinfo_does_not_say_is_unknown(text):
    assert Registers() == cpu_registers(text)


def test_of_a_file_elsewhere_no_machine_is_known(kcore, tmp_path):
    kcore.write(tmp_path / "kcore")
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(""))
    assert Registers() == read_kcore(str(tmp_path / "kcore")).registers


def test_memory_is_read_anew_when_frames_were_forgotten(kcore, proc):
    kcore.write(proc)
    memory = read_kcore(str(proc)).memory
    assert 0x1111111111111111 == memory.word(0x1000)
    with proc.open("r+b") as file:
        file.seek(kcore.place(DIRECT + 0x1000) % (1 << 43))
        file.write(b"\x33" * 8)
    assert 0x1111111111111111 == memory.word(0x1000)
    memory.forget()
    assert 0x3333333333333333 == memory.word(0x1000)


def test_a_frame_may_lie_in_two_segments(kcore, proc):
    kcore.segments = (
        (DIRECT + 0x1000, 0x1000, 0x800),
        (DIRECT + 0x101800, 0x1800, 0x1800),
    )
    kcore.write(proc)
    memory = read_kcore(str(proc)).memory
    assert [(0x1000, 0x2000)] == list(memory.ranges)
    assert [0x1111111111111111, 0x2222222222222222] == [memory.word(0x17F8), memory.word(0x1800)]


def test_any_core_is_read_so_where_kind_says_so(tmp_path, elf):
    image = bytearray(0x4000)
    image[0x1000:0x1008] = (0x2067).to_bytes(8, "little")
    (tmp_path / "core").write_bytes(elf.Core(loads=[(0, bytes(image))]).build())
    source = open_source(tmp_path / "core", Registers(cr3=0x1000), kind="kcore")
    assert (SourceKind.KCORE, 0x2067) == (source.kind, source.memory.word(0x1000))
    assert "ELF core of x86-64, read by the piece" == source.format


@pytest.mark.parametrize(("options", "expected"), [({"cpu": 1}, "no CPU 1"), ({"base": 1}, "base")])
def test_there_is_no_cpu_to_choose_and_nothing_to_place(kcore, proc, options, expected):
    kcore.write(proc)
    with pytest.raises(BadInput, match=f"kcore: {expected}"):
        open_contents(proc, **options)


def test_a_file_that_is_cut_is_refused(kcore, proc):
    kcore.write(proc)
    os.truncate(proc, 4096)
    with pytest.raises(BadInput) as caught:
        open_contents(proc)
    assert "truncated ELF core: a PT_LOAD segment ends at byte" in str(caught.value)


def test_a_file_that_shrinks_meanwhile_is_an_error_that_says_where(kcore, proc):
    kcore.write(proc)
    memory = read_kcore(str(proc)).memory
    os.truncate(proc, 4096)
    with pytest.raises(BadInput, match=r"kcore: the file ends at byte 0x\w+$"):
        memory.word(0x1000)


def test_notes_without_end_are_refused_before_they_are_read(kcore, proc):
    kcore.notes = bytes((1 << 24) + 1)
    kcore.write(proc)
    with pytest.raises(LimitExceeded, match="more than 16 MiB of notes"):
        read_kcore(str(proc))


@pytest.mark.parametrize("name", ["/proc/kcore", "/proc/../proc/kcore"])
def test_kcore_is_known_by_its_place(name):
    assert is_kcore(name)


@pytest.mark.parametrize("name", ["kcore", "/proc/vmcore", "/etc/kcore", "a\0b", ""])
def test_a_file_elsewhere_is_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_kcore(name)


def test_a_link_to_it_is_it(kcore, proc, tmp_path):
    (tmp_path / "link").symlink_to(proc)
    assert is_kcore(str(tmp_path / "link"))


def test_a_kernel_or_container_without_it_is_named(proc):
    with pytest.raises(BadInput) as caught:
        open_contents(proc)
    assert (
        f"{proc}: no such file or directory: the kernel was built without CONFIG_PROC_KCORE, or "
        "this container has no access to it" == str(caught.value)
    )


RAWIO, READ_SEARCH = 1 << 17, 1 << 2


@pytest.mark.parametrize(
    ("capabilities", "lockdown", "expected"),
    [
        (0, "", "it takes CAP_SYS_RAWIO, which root has"),
        (RAWIO, "", "it is root's, and takes CAP_DAC_READ_SEARCH for anybody else"),
        (
            RAWIO | READ_SEARCH,
            "none integrity [confidentiality]\n",
            "the kernel is locked down (confidentiality)",
        ),
        (
            RAWIO | READ_SEARCH,
            "[none] integrity confidentiality\n",
            (
                "it takes CAP_SYS_RAWIO in the first user namespace, not a container's, and a "
                "kernel that isn't locked down (confidentiality)"
            ),
        ),
    ],
    ids=["user", "rawio alone", "lockdown", "namespace"],
)
def test_the_permission_that_is_missing_is_named(
    kcore, proc, monkeypatch, tmp_path, capabilities, lockdown, expected
):
    kcore.write(proc)
    status, locked = tmp_path / "status", tmp_path / "lockdown"
    status.write_text(f"Name:\tpython\nCapEff:\t{capabilities:016x}\n")
    locked.write_text(lockdown)
    monkeypatch.setattr(module, "_STATUS", status)
    monkeypatch.setattr(module, "_LOCKDOWN", locked)

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files, "_open_regular", refuse)
    with pytest.raises(BadInput) as caught:
        open_contents(proc)
    assert f"{proc}: operation not permitted: {expected}" == str(caught.value)
