"""The registers of CPUs in QEMU's migration stream, by the description that QEMU puts behind it.

Behind the pages come the states of devices (QEMU docs/devel/migration.rst and migration/savevm.c,
big-endian):

    byte 4, uint32 section, name, uint32 instance, uint32 version, the fields,
    for each subsection byte 5, its name, uint32 version, its fields,
    byte 0x7E, uint32 section

and at the end a byte 6 and, with its length as a uint32, a JSON text that lists the fields of each
device: their names and sizes. Names have a byte for their length. A CPU counts only where all of
this fits its description.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from mmap import mmap
from typing import Any

from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.memory_types import is_pat

__all__ = ["cpus_in"]

_LONGEST = 1 << 26  # What follows the pages, in bytes: some 100 KB, and the memory of a video card.
_BLOCK = 1 << 16
_TRIED = 16
_DESCRIPTION = re.compile(rb"\x06(?P<size>....)\{", re.DOTALL)
_CPU = re.compile(rb"\x04(?P<section>....)\x03cpu(?P<instance>....)(?P<version>....)", re.DOTALL)
_FOOTER, _SUBSECTION = b"\x7e", b"\x05"
_AC = 1 << 18
_REGISTERS = {"env.cr[0]": "cr0", "env.cr[3]": "cr3", "env.cr[4]": "cr4", "env.efer": "efer"}
_PKRU, _FLAGS, _PAT = "env.pkru", "env.eflags", "env.pat"

Fields = Sequence[Mapping[str, Any]]


def cpus_in(data: mmap, begin: int) -> tuple[Registers, ...]:
    """Return the registers of each CPU, in order; none where the stream doesn't describe them all.

    `begin` is where the pages end, in bytes.
    """
    tail = data[begin : begin + _LONGEST]
    devices = _devices(tail)
    described = {device["instance_id"]: device for device in devices if device.get("name") == "cpu"}
    found = {}
    for match in _CPU.finditer(tail):
        instance, version = _number(match["instance"]), _number(match["version"])
        device = described.get(instance)
        if device is None or device.get("version") != version or instance in found:
            continue
        values = _values(tail, match.end(), device, match["section"])
        if values is not None:
            found[instance] = values
    if set(found) != set(described):
        return ()
    return tuple(_registers(found[instance]) for instance in sorted(found))


def _devices(tail: bytes) -> list[Any]:
    """Return the devices of the description; none where there is none."""
    tried = 0
    for match in _DESCRIPTION.finditer(tail):
        begin, size = match.end() - 1, _number(match["size"])
        # It ends with the file, or with the zeros that fill up a block of it.
        if not 0 <= len(tail) - begin - size < _BLOCK or tail[begin + size :].strip(b"\0"):
            continue
        tried += 1
        if tried > _TRIED:
            break
        text = tail[begin : begin + size]
        try:
            devices = json.loads(text)["devices"]
            if all(isinstance(device["instance_id"], int) for device in devices):
                return list(devices)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # These bytes only look like one.
    return []


def _number(text: bytes) -> int:
    return int(struct.unpack(">I", text)[0])


def _values(
    tail: bytes, at: int, device: Mapping[str, Any], section: bytes
) -> dict[str, int] | None:
    """Return the numbers among a device's fields, by name; None where it isn't as described."""
    try:
        found, at = _fields(tail, at, device["fields"])
        for each in device.get("subsections", ()):
            name = each["vmsd_name"].encode()
            head = _SUBSECTION + bytes([len(name)]) + name + struct.pack(">I", each["version"])
            if tail[at : at + len(head)] != head:
                return None
            more, at = _fields(tail, at + len(head), each["fields"])
            found |= more
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error):
        return None  # A description of another form.
    return found if tail[at : at + 5] == _FOOTER + section else None


def _fields(tail: bytes, at: int, fields: Fields) -> tuple[dict[str, int], int]:
    """Return the numbers among fields that begin at a byte, and where they end."""
    found = {}
    for field in fields:
        size, count = int(field["size"]), int(field.get("array_len", 1))
        if size < 0 or count < 0:
            raise ValueError("no size")
        if count == 1 and size <= 8:
            found[field["name"]] = int.from_bytes(tail[at : at + size], "big")
        at += size * count
    return found, at


def _registers(values: Mapping[str, int]) -> Registers:
    known: dict[str, Any] = {
        ours: values[theirs] for theirs, ours in _REGISTERS.items() if theirs in values
    }
    if _PKRU in values:
        known["pkru"] = values[_PKRU]
    if _FLAGS in values:
        known["rflags_ac"] = bool(values[_FLAGS] & _AC)
    if is_pat(values.get(_PAT, -1)):
        known["pat"] = values[_PAT]
    return Registers(**known)
