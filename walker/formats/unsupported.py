"""Unsupported file formats that hold memory, or wrap it, recognised by their first bytes.

Read as a raw image, such a file has its tables at the wrong addresses, or none.
"""

from dataclasses import dataclass

from crosswalk.walker.memory import FRAME

__all__ = ["HEAD", "UNREAD", "Unread", "unread_format"]


@dataclass(frozen=True, slots=True)
class Unread:
    """A format: `magic` at byte `offset` of the file, its name, and what would read it."""

    offset: int
    magic: bytes
    name: str
    advice: str


_UNPACK = "unpack it first"
_VMWARE = "VMware's vmss2core makes a core of it"
_QEMU = "load it into QEMU, and take an ELF core by dump-guest-memory"
_DISK = "a disk, not memory"
_HIBERNATION = "volatility3 reads it"
_HYPER_V = "Microsoft's VmSavedStateDumpProvider reads it"
_XEN = "take what `xl dump-core` makes of the domain"
_VBOX = "take an ELF core by `VBoxManage debugvm NAME dumpvmcore`"
_PROGRAM = "a program, not memory"

UNREAD = (
    # Memory, in a format of its own.
    Unread(0, b"DISKDUMP", "diskdump file", "crash reads it"),
    Unread(0, b"MDMP", "Windows minidump", "it holds parts of a process, not the tables"),
    Unread(0, b"HIBR", "Windows hibernation file", _HIBERNATION),
    Unread(0, b"hibr", "Windows hibernation file", _HIBERNATION),
    Unread(0, b"WAKE", "Windows hibernation file", _HIBERNATION),
    Unread(0, b"wake", "Windows hibernation file", _HIBERNATION),
    Unread(0, b"RSTR", "Windows hibernation file", _HIBERNATION),
    Unread(FRAME - 10, b"S1SUSPEND\0", "Linux hibernation image", "no tool at hand reads it"),
    Unread(FRAME - 10, b"S2SUSPEND\0", "Linux hibernation image", "no tool at hand reads it"),
    Unread(FRAME - 10, b"ULSUSPEND\0", "Linux hibernation image", "no tool at hand reads it"),
    Unread(FRAME - 10, b"LINHIB0001", "Linux hibernation image", "no tool at hand reads it"),
    Unread(0, b"\xd0\xbe\xd0\xbe", "VMware suspended state", _VMWARE),
    Unread(0, b"\xd1\xbe\xd1\xbe", "VMware suspended state", _VMWARE),
    Unread(0, b"\xd2\xba\xd2\xba", "VMware suspended state", _VMWARE),
    Unread(0, b"\x14\x20\x28\x01", "Hyper-V saved state (vmrs)", _HYPER_V),
    Unread(0, b"LibvirtQemudPart", "libvirt save file, not finished", _QEMU),
    Unread(0, b"LinuxGuestRecord", "Xen save file (legacy)", _XEN),
    Unread(0, b"\xff" * 8 + b"XENF", "Xen save file", _XEN),
    Unread(0, b"Xen saved domain, xl", "Xen save file (xl)", _XEN),
    Unread(0, b"libvirt-xml\n \0 \r", "Xen save file (libvirt)", _XEN),
    Unread(0, b"\x7fVirtualBox SavedState V", "VirtualBox saved state", _VBOX),
    Unread(0, b"\xcf\xfa\xed\xfe", "Mach-O file", "lldb and volatility3 read it"),
    Unread(0, b"\xce\xfa\xed\xfe", "Mach-O file, 32 bits", "lldb reads it"),
    Unread(0, b"\xca\xfe\xba\xbe", "Mach-O file of several machines", "lldb reads it"),
    # Disks.
    Unread(0, b"QFI\xfb", "qcow2 disk image", f"{_DISK}; of a snapshot with memory, {_QEMU}"),
    Unread(0, b"QED\0", "QED disk image", _DISK),
    Unread(0, b"KDMV", "VMDK disk image", _DISK),
    Unread(0, b"COWD", "VMDK disk image", _DISK),
    Unread(0, b"# Disk DescriptorFile", "VMDK disk image", _DISK),
    Unread(64, b"\x7f\x10\xda\xbe", "VDI disk image", _DISK),
    Unread(0, b"conectix", "VHD disk image", _DISK),
    Unread(0, b"vhdxfile", "VHDX disk image", _DISK),
    Unread(0, b"EVF\x09\x0d\x0a\xff\0", "EnCase image (E01)", "`ewfexport` unpacks it"),
    Unread(0, b"AFF", "AFF image", "`affconvert` unpacks it"),
    Unread(510, b"\x55\xaa", "disk image with a boot sector", _DISK),
    Unread(0x8001, b"CD001", "CD image", _DISK),
    # Archives and compressed files.
    Unread(0, b"\x1f\x8b", "gzip file", _UNPACK),
    Unread(0, b"\xfd7zXZ\0", "xz file", _UNPACK),
    Unread(0, b"\x28\xb5\x2f\xfd", "zstd file", _UNPACK),
    Unread(0, b"BZh", "bzip2 file", _UNPACK),
    Unread(0, b"\x04\x22\x4d\x18", "lz4 file", _UNPACK),
    Unread(0, b"\x02\x21\x4c\x18", "lz4 file (legacy)", _UNPACK),
    Unread(0, b"\x89LZO\0\r\n\x1a\n", "lzop file", _UNPACK),
    Unread(0, b"LZIP", "lzip file", _UNPACK),
    Unread(0, b"\x5d\0\0", "lzma file", _UNPACK),
    Unread(0, b"\xff\x06\0\0sNaPpY", "snappy file", _UNPACK),
    Unread(0, b"PK\x03\x04", "zip archive", _UNPACK),
    Unread(0, b"PK\x05\x06", "zip archive without files", _UNPACK),
    Unread(0, b"7z\xbc\xaf\x27\x1c", "7z archive", _UNPACK),
    Unread(0, b"Rar!\x1a\x07", "rar archive", _UNPACK),
    Unread(257, b"ustar", "tar archive", _UNPACK),
    Unread(0, b"070701", "cpio archive", _UNPACK),
    # Other files that are given by mistake.
    Unread(0, b"MZ", "PE file", _PROGRAM),
    Unread(0, b"%PDF-", "PDF file", "no memory"),
    Unread(0, b"<?xml", "XML file", "no memory"),
)
"""The formats by their first bytes; where several fit, the first one is it."""

HEAD = max(each.offset + len(each.magic) for each in UNREAD)
"""The number of bytes at the beginning of a file that distinguish all of them."""


def unread_format(head: bytes) -> Unread | None:
    """Return the format of `UNREAD` that a file has; `head` is its first `HEAD` bytes, or all."""
    for each in UNREAD:
        if head[each.offset : each.offset + len(each.magic)] == each.magic:
            return each
    return None
