"""All names of an address space, put together from its memory and from symbols."""

from collections.abc import Callable

from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.sources import Source, SourceKind
from crosswalk.walker.memory import FRAME
from crosswalk.walker.roots.vmcoreinfo import Vmcoreinfo, parse_vmcoreinfo, texts_in_memory
from crosswalk.walker.symbols.identity import LONGEST, Identity, release_in
from crosswalk.walker.symbols.kaslr import Offset, symbols_offset, vmcoreinfo_values
from crosswalk.walker.symbols.linear_memory import LinearMemory
from crosswalk.walker.symbols.linux import addresses_of, linux_regions
from crosswalk.walker.symbols.names import Names
from crosswalk.walker.symbols.spans import Span, SpanKind, Spans
from crosswalk.walker.symbols.symbol_files import SymbolFile

__all__ = ["LAYOUT", "NO_SYMBOLS", "halves", "is_linux", "known_names", "vmcoreinfo_of"]

NO_SYMBOLS = SymbolFile("", Spans.of(SpanKind.SYMBOL, ()), Spans.of(SpanKind.SECTION, ()))
"""A file without symbols."""

LAYOUT = "Linux' layout"
"""The source of names without symbols, where there are regions of Linux."""

_BANNER = "linux_banner"
_OF_LINUX = ("init_top_pgt", "swapper_pg_dir", "init_level4_pgt", _BANNER)
_TOP_ENTRIES = {PagingMode.BIT32: 1023 * 4, PagingMode.PAE: 3 * 8}
_LONG_TOP_ENTRY = 511 * 8
"""Where the entry for the top of the address space is in a root: all tables of a kernel have it."""
_UNKNOWN = "whether the symbols are this kernel's isn't known: no linux_banner says so"


def vmcoreinfo_of(source: Source) -> str:
    """Return the text of VMCOREINFO of a Linux kernel whose memory this is; "" for none.

    That of a note or header, else one that is found in memory. Of several there, the one whose
    kernel has the tables that map its image in common with this address space. A live guest's
    memory isn't searched, nor one of a case file, which has nothing but tables.
    """
    if source.vmcoreinfo or source.complete or source.kind is SourceKind.LIVE:
        return source.vmcoreinfo
    found = ""
    for text in texts_in_memory(source.memory):
        info = parse_vmcoreinfo(text)
        if info is None or not _pages_like(source.context.mode, info):
            continue
        ours = _top_entry(source, source.context.root)
        if ours and ours in (_top_entry(source, root) for root in info.roots):
            return text
        found = found or text
    return found


def _pages_like(mode: PagingMode, info: Vmcoreinfo) -> bool:
    """Return whether the kernel of `info` pages in this mode, or, of long ones, in any."""
    if info.pae is None:
        return mode.long
    return mode is (PagingMode.PAE if info.pae else PagingMode.BIT32)


def _top_entry(source: Source, root: int) -> int | None:
    """Return the address in the topmost entry of a root; None where it isn't in memory."""
    mode = source.context.mode
    # A root is on 32 bytes in PAE paging, in the others on a frame.
    begin = root & (-32 if mode is PagingMode.PAE else -FRAME)
    at = begin + _TOP_ENTRIES.get(mode, _LONG_TOP_ENTRY)
    word = source.memory.word(at & -8)
    if word is None or mode is not PagingMode.BIT32:
        return None if word is None else word & -FRAME
    return word >> 8 * (at % 8) & 0xFFFF_F000


def is_linux(symbols: Spans) -> bool:
    """Return whether symbols are those of a Linux kernel."""
    return bool(addresses_of(symbols, _OF_LINUX))


def known_names(
    source: Source,
    file: SymbolFile = NO_SYMBOLS,
    *,
    info: str = "",
    linux: bool = False,
    offset: int | None = None,
    notice: Callable[[str], None] | None = None,
) -> Names:
    """Return the names of an address space: symbols and sections of a file, regions of the system.

    `info` is the text of the kernel's VMCOREINFO; with `linux` the regions are those of a Linux
    kernel also where neither that nor the symbols say so. Symbols are moved by `offset`, in bytes,
    or by what KASLR has moved the kernel. `notice` takes sentences for people about that, and about
    regions that aren't known. Raises `BadInput` in one line for symbols of another kernel; with
    `offset` that is a notice.
    """
    say = notice or (lambda _: None)
    values = vmcoreinfo_values(info)
    moved = _offset(file, values, source, offset)
    if moved.remark:
        say(moved.remark)
    symbols, sections = file.symbols.moved(moved.value), file.sections.moved(moved.value)
    if not (linux or info or is_linux(symbols)):
        regions = Spans.of(SpanKind.REGION, ())
        return Names(regions, sections, symbols, halves(source.context), file.name)
    found = linux_regions(source.memory, source.context, symbols, values)
    for remark in found.remarks:
        say(remark)
    symbols = symbols.within(found.regions)
    wider = (*found.wider, *halves(source.context))
    return Names(found.regions, sections, symbols, wider, file.name or LAYOUT)


def _offset(file: SymbolFile, info: dict[str, str], source: Source, given: int | None) -> Offset:
    if given is not None and not info:
        return Offset(given)
    try:
        same = _is_kernel(file, info)
        found = symbols_offset(file.symbols, info, source.memory, source.context, identified=same)
        placed = not info and (found.value or not found.remark)
        if placed and is_linux(file.symbols) and not _is_banner_right(file, found.value, source):
            reasons = [*([found.remark] if found.remark else []), _UNKNOWN]
            found = Offset(found.value, "; ".join(reasons))
    except BadInput as error:
        if given is None:
            raise BadInput(f"{file.name}: {error}") from None
        return Offset(given, f"{error}; they are moved by {given:#x} all the same")
    return found if given is None else Offset(given)


def _is_kernel(file: SymbolFile, info: dict[str, str]) -> bool:
    """Return whether a file is of this kernel by its VMCOREINFO; `BadInput` where it is another's.

    False where neither is said.
    """
    kernel = Identity(info.get("BUILD-ID", ""), info.get("OSRELEASE", ""))
    different = file.identity.differs(kernel)
    if different:
        raise BadInput(f"symbols of another kernel: {different}")
    return file.identity.agrees(kernel)


def _is_banner_right(file: SymbolFile, offset: int, source: Source) -> bool:
    """Return whether memory has a linux_banner where these symbols do; False where nothing says so.

    `BadInput` where it has none, or another one, at the place where these symbols have theirs. What
    isn't in memory says nothing, nor do zeros, as a dump may have in place of what was left out,
    nor a case file, which has nothing but tables.
    """
    at = None if source.complete else addresses_of(file.symbols, (_BANNER,)).get(_BANNER)
    if at is None:
        return False
    try:
        text = LinearMemory(source.memory, source.context).read(at + offset, LONGEST)
    except BadInput:
        return False
    release = release_in(text)
    if not any(text):
        return False
    if not release:
        raise BadInput(f"symbols of another kernel: no {_BANNER} is at {at + offset:#x}")
    different = Identity(release=file.identity.release).differs(Identity(release=release))
    if different:
        raise BadInput(f"symbols of another kernel: {different}")
    return True


def halves(context: PagingContext) -> tuple[Span, ...]:
    """Return the two halves of an address space, which have names on every system.

    Source: Intel SDM vol. 1, "Canonical Addressing". Outside IA-32e mode there is one.
    """
    if not context.mode.long:
        return (Span("lower-half", 0, 1 << 32, SpanKind.REGION),)
    half = 1 << context.va_bits - 1
    return (
        Span("lower-half", 0, half, SpanKind.REGION),
        Span("upper-half", (1 << 64) - half, 1 << 64, SpanKind.REGION),
    )
