"""Builds the image of a guest: assembles its sources, packs its description."""

from collections.abc import Iterator
from importlib import resources
from itertools import pairwise

from crosswalk.guest import places
from crosswalk.guest.assembler import assemble
from crosswalk.guest.errors import LayoutError
from crosswalk.guest.image import Code, GuestImage
from crosswalk.guest.layout import PAGE, MemoryMap, pack_records
from crosswalk.guest.memory_map import memory_map
from crosswalk.guest.traps import attempts, pack_attempts

__all__ = ["build_image"]

# source, code size, where it runs, where it lies, bytes it may have
SOURCES = (
    ("real", 16, places.BOOT, places.BOOT, places.PROTECTED - places.BOOT),
    ("protected", 32, places.PROTECTED, places.PROTECTED, places.LONG - places.PROTECTED),
    ("long", 64, places.LONG, places.LONG, places.BOOT + PAGE - places.LONG),
    ("kernel", 64, places.KERNEL + places.TEXT, places.TEXT, PAGE),
    ("traps", 64, places.KERNEL + places.TRAPS, places.TRAPS, PAGE),
    ("agent", 64, places.KERNEL + places.AGENT, places.AGENT, PAGE),
    ("user", 64, places.USER, places.EXECUTABLE, PAGE),
)

BANNER = b"Crosswalk guest with %d-level paging\0"
USER_WORDS = b"\0" * 8 + b"in user "


def build_image(levels: int) -> GuestImage:
    """Return the guest with this many paging levels, 4 or 5; each time the same bytes.

    Raises `LayoutError` or `AssemblyError` (both `GuestError`).
    """
    described = memory_map(levels)
    tried = attempts(levels)
    rodata = BANNER % levels
    code = tuple(_code(described))
    segments = (
        *((part.pa, part.data) for part in code),
        (places.RECORDS, _fitting("records", pack_records(described), places.RECORDS_PAGES * PAGE)),
        (places.RODATA, rodata),
        (places.ON_PURPOSE, _fitting("attempts", pack_attempts(tried), PAGE)),
        (places.USER_DATA_FRAME, USER_WORDS),
    )
    _check_disjoint(segments)
    return GuestImage(
        name=f"built-in guest, {levels}-level paging",
        memory_map=described,
        attempts=tried,
        code=code,
        segments=segments,
        entry=places.BOOT,
        status_pa=places.STATUS,
        status_size=places.STATUS_PAGES * PAGE,
        proof=_word(rodata, 0) ^ _word(USER_WORDS, 8),
    )


def _code(described: MemoryMap) -> Iterator[Code]:
    for name, bits, va, pa, limit in SOURCES:
        file = f"{name}.s"
        source = (
            resources.files("crosswalk.guest").joinpath("asm", file).read_text(encoding="utf-8")
        )
        data = assemble(file, source, bits=bits, address=va, symbols=described.symbols)
        yield Code(file, bits, va, pa, _fitting(file, data, limit))


def _fitting(name: str, data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise LayoutError(f"{name}: {len(data)} bytes don't fit into {limit}")
    return data


def _check_disjoint(segments: tuple[tuple[int, bytes], ...]) -> None:
    for (start, data), (following, _) in pairwise(sorted(segments)):
        if start + len(data) > following:
            raise LayoutError(f"segments overlap at {following:#x}")


def _word(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
