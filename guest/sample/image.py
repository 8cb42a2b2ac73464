"""The sample kernel as a file, and the bugs that it can be built with.

Physical memory from 1 MiB on; but for the program and its stack, linear addresses are the same:

    .text           its first page is 32-bit code and what loaders look for
    .rodata
    .data
    .bss            the IDT, and what is counted
    .tables         paging structures
    .stack_guard    not mapped
    .stack
    .module         where a module is loaded; written first, then executed
    .user           the program, at 1 GiB
    .user_stack

Source: Multiboot Specification, "OS image format"; Intel SDM vol. 3A, "4-Level Paging and 5-Level
Paging".
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

from crosswalk.guest.assembler import assemble
from crosswalk.guest.errors import AssemblyError
from crosswalk.guest.sample.elf import Flags, Section, Symbol, SymbolKind, elf_file

__all__ = ["EXIT_PORT", "Bug", "sample_kernel"]

EXIT_PORT = 0xF4
"""The port by which the kernel ends the machine; the value is its status."""


class Bug(StrEnum):
    """A mistake in the kernel's mappings: of its linker script, or of one flag."""

    SHARED_FRAME = "shared-frame"
    """.data begins in the frame in which .text ends: its mapping lets that text be written."""
    STACK_GUARD = "stack-guard"
    """The stack's region begins with the guard page, which is mapped with it."""
    USER_RODATA = "user-rodata"
    """The pages of .rodata have the user bit."""
    WRITABLE_MODULE = "writable-module"
    """The loader makes a module's page executable, and leaves it writable."""


_PAGE = 0x1000
_TEXT, _TEXT_PAGES = 0x10_0000, 2
_MAIN = _TEXT + _PAGE
_RODATA = 0x10_2000
_DATA = 0x10_3000
_BSS = 0x10_4000
_TABLES, _TABLES_PAGES = 0x10_5000, 8
_STACK_GUARD = 0x10_D000
_STACK, _STACK_PAGES = 0x10_E000, 2
_MODULE = 0x11_0000
_USER_LOADED, _USER_STACK_LOADED = 0x11_1000, 0x11_2000
_USER, _USER_STACK = 0x4000_0000, 0x4000_2000
_SHARED_OFFSET = _TEXT_PAGES * _PAGE - 0x400
"""Where .data is loaded in .text's last frame, by the bug; the code ends before it."""

_PRESENT, _WRITABLE, _FOR_USER, _NO_EXECUTE = 1, 2, 4, 1 << 63
_READ_WRITE = _PRESENT | _WRITABLE | _NO_EXECUTE
_IDT_SIZE = 0x81 * 16
_MODULE_ANSWER = 0x600D

_EXPORTED = re.compile(r"^\.globl (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Unit:
    """An assembled source, and the addresses of what it exports."""

    code: bytes
    addresses: Mapping[str, int]
    end: int


def sample_kernel(bug: Bug | None = None) -> bytes:
    """Return the kernel as an ELF file of 32 bits with symbols, with a bug if one is named."""
    constants = _constants(bug)
    data = _assembled("sample_data.s", 32, constants["DATA"], constants)
    rodata = _assembled("sample_rodata.s", 32, _RODATA, constants)
    constants |= rodata.addresses
    entry = _assembled("sample_entry.s", 32, _TEXT, constants)
    main = _assembled("sample.s", 64, _MAIN, constants)
    user = _assembled("sample_user.s", 64, _USER, constants)
    room = _SHARED_OFFSET - _PAGE
    if len(entry.code) > _PAGE or len(main.code) > room:
        raise AssemblyError(f"the sample kernel's text is longer than {_PAGE} + {room} bytes")
    text = entry.code.ljust(_PAGE, b"\0") + main.code
    contents = {".text": text, ".rodata": rodata.code, ".data": data.code, ".user": user.code}
    units = (
        (".text", entry),
        (".text", main),
        (".rodata", rodata),
        (".data", data),
        (".user", user),
    )
    symbols = [symbol for section, unit in units for symbol in _symbols(section, unit)]
    return elf_file(entry.addresses["start"], list(_sections(constants, contents)), symbols)


def _constants(bug: Bug | None) -> dict[str, int]:
    """Return the constants of the sources: the linker script, and the rights of pages."""
    shared = _SHARED_OFFSET if bug is Bug.SHARED_FRAME else None
    data = _DATA if shared is None else _DATA + shared % _PAGE
    return {
        "PAGE": _PAGE,
        "TEXT": _TEXT,
        "TEXT_END": _MAIN + _PAGE,
        "MAIN": _MAIN,
        "RODATA": _RODATA,
        "RODATA_END": _RODATA + _PAGE,
        "DATA": data,
        "DATA_LOADED": data if shared is None else _TEXT + shared,
        "DATA_END": _DATA + _PAGE,
        "BSS": _BSS,
        "BSS_END": _BSS + _PAGE,
        "TABLES": _TABLES,
        "TABLES_SIZE": _TABLES_PAGES * _PAGE,
        "STACK_MAPPED": _STACK_GUARD if bug is Bug.STACK_GUARD else _STACK,
        "STACK_END": _STACK + _STACK_PAGES * _PAGE,
        "MODULE": _MODULE,
        "USER": _USER,
        "USER_LOADED": _USER_LOADED,
        "USER_END": _USER + _PAGE,
        "USER_STACK": _USER_STACK,
        "USER_STACK_LOADED": _USER_STACK_LOADED,
        "USER_STACK_END": _USER_STACK + _PAGE,
        "READ_EXECUTE": _PRESENT,
        "READ_WRITE": _READ_WRITE,
        "RODATA_FLAGS": _PRESENT | _NO_EXECUTE | (_FOR_USER if bug is Bug.USER_RODATA else 0),
        "USER_READ_EXECUTE": _PRESENT | _FOR_USER,
        "USER_READ_WRITE": _READ_WRITE | _FOR_USER,
        "MODULE_FLAGS": _PRESENT | (_WRITABLE if bug is Bug.WRITABLE_MODULE else 0),
        "MODULE_ANSWER": _MODULE_ANSWER,
        "R_VA": 0,
        "R_PA": 4,
        "R_END": 8,
        "R_FLAGS": 12,
        "R_SIZE": 20,
        "CODE": 0x08,
        "WRITABLE": 0x10,
        "USER_WRITABLE": 0x18,
        "USER_CODE": 0x20,
        "TASK": 0x28,
        "GDT": data,
        "GDT_SIZE": 0x38,
        "TSS": data + 0x38,
        "IDT": _BSS,
        "IDT_SIZE": _IDT_SIZE,
        "TICKS": _BSS + _IDT_SIZE,
        "EXIT_PORT": EXIT_PORT,
    }


def _sections(at: Mapping[str, int], content: Mapping[str, bytes]) -> Iterator[Section]:
    """Yield the sections in the order of their places in memory."""
    text, rodata, data, user = (content[name] for name in (".text", ".rodata", ".data", ".user"))
    write = Flags.WRITE
    yield Section(".text", _TEXT, _TEXT, len(text), Flags.EXECUTE, text)
    yield Section(".rodata", _RODATA, _RODATA, len(rodata), content=rodata)
    yield Section(".data", at["DATA"], at["DATA_LOADED"], len(data), write, data)
    yield Section(".bss", _BSS, _BSS, _IDT_SIZE + 8, write)
    yield Section(".tables", _TABLES, _TABLES, at["TABLES_SIZE"], write)
    yield Section(".stack_guard", _STACK_GUARD, _STACK_GUARD, _PAGE, mapped=False)
    yield Section(".stack", _STACK, _STACK, _STACK_PAGES * _PAGE, write)
    yield Section(".module", _MODULE, _MODULE, _PAGE, write)
    yield Section(".user", _USER, _USER_LOADED, len(user), Flags.EXECUTE, user)
    yield Section(".user_stack", _USER_STACK, _USER_STACK_LOADED, _PAGE, write)


def _symbols(section: str, unit: _Unit) -> Iterator[Symbol]:
    """Yield what a source exports; a symbol ends where the next one begins."""
    kind = SymbolKind.FUNCTION if section in {".text", ".user"} else SymbolKind.OBJECT
    named = sorted(unit.addresses.items(), key=lambda each: each[1])
    ends = [*(address for _, address in named[1:]), unit.end]
    for (name, address), end in zip(named, ends, strict=True):
        yield Symbol(name, address, end - address, kind, section)


def _assembled(name: str, bits: int, address: int, constants: Mapping[str, int]) -> _Unit:
    """Assemble a source, which says with .globl what it exports."""
    path = resources.files("crosswalk.guest").joinpath("asm", name)
    source = path.read_text(encoding="utf-8")
    exported = [each for line in _EXPORTED.findall(source) for each in line.split(", ")]
    source = _EXPORTED.sub("", source)  # The assembler would leave such names to a linker.
    # It tells addresses in no other way: they stand behind the code, and are cut off.
    addresses = "".join(f".quad {each}\n" for each in exported)
    code = assemble(name, f"{source}\n{addresses}", bits=bits, address=address, symbols=constants)
    size = len(code) - 8 * len(exported)
    values = struct.unpack_from(f"<{len(exported)}Q", code, size)
    return _Unit(code[:size], dict(zip(exported, values, strict=True)), address + size)
