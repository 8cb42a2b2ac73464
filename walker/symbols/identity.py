"""Which build of a kernel a file is of: its build ID, and its release.

Source: GNU Binary Utilities, "ld", "--build-id"; Linux, init/version-timestamp.c (linux_banner);
Documentation/admin-guide/kdump/vmcoreinfo.rst, "OSRELEASE" and "BUILD-ID".
"""

import io
import struct
from dataclasses import dataclass
from typing import Any

from crosswalk.walker.formats.located_errors import one_line

__all__ = ["LONGEST", "UNKNOWN", "Identity", "build_id_in", "identity_of_elf", "release_in"]

_BANNER = b"Linux version "
LONGEST = 256
"""So many bytes from linux_banner on have the release."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The build ID, in hex, and the release ("6.1.0-57-amd64") of a kernel; "" where not known."""

    build_id: str = ""
    release: str = ""

    def differs(self, other: "Identity") -> str:
        """Return in what this kernel is another one than `other`, for people; "" for nothing.

        Build IDs decide, where both are known, else releases.
        """
        builds = bool(self.build_id and other.build_id)
        if builds and self.build_id == other.build_id:
            return ""
        if self.release and other.release and self.release != other.release:
            return f"release {one_line(self.release)}, not {one_line(other.release)}"
        return f"build ID {self.build_id}, not {one_line(other.build_id)}" if builds else ""

    def agrees(self, other: "Identity") -> bool:
        """Return whether this is the kernel that `other` is by a build ID, or else a release."""
        both = (self.build_id and other.build_id) or (self.release and other.release)
        return bool(both) and not self.differs(other)


UNKNOWN = Identity()
"""What says nothing about itself."""


def identity_of_elf(elf: Any, data: bytes, banner: int | None) -> Identity:
    """Return what an ELF file, opened by pyelftools, says about itself; `data` is its content.

    `banner` is the address of the symbol linux_banner, if it has one.
    """
    return Identity(_build_id(elf), "" if banner is None else _release(elf, data, banner))


def build_id_in(data: bytes) -> str:
    """Return the build ID of an ELF file, in hex; "" where it has none, or is damaged."""
    # What reads ELF files takes a while to import.
    from elftools.common.exceptions import ELFError  # noqa: PLC0415
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    try:
        return _build_id(ELFFile(io.BytesIO(data)))
    except (ELFError, ValueError, OverflowError, struct.error, KeyError):
        return ""


def _build_id(elf: Any) -> str:
    holders = [each for each in elf.iter_segments() if each["p_type"] == "PT_NOTE"]
    holders += [each for each in elf.iter_sections() if each["sh_type"] == "SHT_NOTE"]
    for holder in holders:
        for note in holder.iter_notes():
            if note["n_name"] == "GNU" and note["n_type"] == "NT_GNU_BUILD_ID":
                return str(note["n_desc"])
    return ""


def _release(elf: Any, data: bytes, banner: int) -> str:
    for section in elf.iter_sections():
        start, size = section["sh_addr"], section["sh_size"]
        if section["sh_type"] == "SHT_PROGBITS" and start and start <= banner < start + size:
            at = section["sh_offset"] + banner - start
            return release_in(data[at : at + LONGEST])
    return ""


def release_in(banner: bytes) -> str:
    """Return the release that a kernel's linux_banner names; "" for what is none."""
    words = banner.removeprefix(_BANNER).split() if banner.startswith(_BANNER) else []
    return words[0].decode("ascii", "replace") if words else ""
