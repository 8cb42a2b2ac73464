"""What the columns, flags, rights and colours of listings mean, as lines of text."""

from collections.abc import Iterator, Sequence

from crosswalk.emu.report.listings import Column, Rows, heading
from crosswalk.walker.frames import Frames
from crosswalk.walker.guest_pages import EptPages, GuestPages, GuestRanges
from crosswalk.walker.mappings import Ranges
from crosswalk.walker.pages import Pages

__all__ = ["legend"]

_GUEST_RIGHTS = (
    ("SUP", "what the tables grant the guest's supervisor, all levels together"),
    ("USR", "what they grant its user mode: under MBEC execution may differ, nothing else does"),
)
_GUEST_PAGES = (
    ("GPA", "guest-physical address of the page's first byte, hexadecimal"),
    ("PA", "the host's physical address of that byte, hexadecimal"),
    ("SIZE", "size of the page: 1 KiB is 1,024 bytes, MiB and GiB accordingly"),
    *_GUEST_RIGHTS,
    ("FLAGS", "bits set in the entry that maps the page (its leaf)"),
)
_COLUMNS: dict[type[Rows], tuple[tuple[str, str], ...]] = {
    Pages: (
        ("VA", "linear address of the page's first byte, hexadecimal"),
        ("PA", "physical address of that byte, hexadecimal"),
        ("SIZE", "size of the page: 1 KiB is 1,024 bytes, MiB and GiB accordingly"),
        ("SUP", "effective rights of the supervisor, all levels of tables together"),
        ("USR", "effective rights of user mode"),
        ("FLAGS", "bits set in the entry that maps the page (its leaf)"),
    ),
    Ranges: (
        ("VA", "linear addresses of the first and the last byte of the range, hexadecimal"),
        ("PA", "physical address of the first byte, hexadecimal"),
        ("SIZE", "size of the range in linear addresses: 1 KiB is 1,024 bytes"),
        ("SUP", "effective rights of the supervisor, all levels of tables together"),
        ("USR", "effective rights of user mode"),
        ("PAGES", "pages folded to this range: neighbours of equal rights and flags"),
    ),
    GuestPages: _GUEST_PAGES,
    EptPages: _GUEST_PAGES,
    GuestRanges: (
        ("GPA", "guest-physical addresses of the first and the last byte of the range"),
        ("PA", "the host's physical address of the first byte, hexadecimal"),
        ("SIZE", "size of the range in guest-physical addresses: 1 KiB is 1,024 bytes"),
        *_GUEST_RIGHTS,
        ("PAGES", "pages folded to this range: neighbours of equal rights and flags"),
    ),
    Frames: (
        ("PA", "physical addresses of the first and the last byte of the range, hexadecimal"),
        ("SIZE", "size of the range: 1 KiB is 1,024 bytes"),
        ("SUP", "collective rights of the supervisor: what any mapping of a frame allows"),
        ("USR", "collective rights of user mode"),
    ),
}
_RIGHTS = (
    ("r", "reading succeeds"),
    ("w", "writing succeeds"),
    ("x", "executing succeeds"),
    ("-", "it faults"),
)
_FLAGS = (
    ("RW", "writable, as far as this entry goes"),
    ("US", "accessible to user mode, as far as this entry goes"),
    ("PWT", "page-level write-through"),
    ("PCD", "page-level cache disable"),
    ("A", "accessed"),
    ("D", "dirty: written to"),
    ("PS", "page size: the entry maps a large page"),
    ("G", "global: stays in the TLB when CR3 changes"),
    ("PAT", "page attribute table: with PWT and PCD the memory type"),
    ("XD", "execute disable (NX)"),
    ("PK=N", "protection key N"),
)
_FOLDED = (
    "Flags of a range are those of its first page; A and D may differ within it, and so may sizes.",
    "PA goes on with VA, or is the same for all pages: N pages of one frame, every so many bytes.",
)
_FOLDED_GUEST = (_FOLDED[0], _FOLDED[1].replace("VA", "GPA"))
_RED = "A line in red: one privilege may both write and execute there."


def legend(kind: type[Rows], columns: Sequence[Column], *, colours: bool) -> Iterator[str]:
    """Yield the heading of a listing, and a line for each thing that stands in its lines.

    `colours` says whether lines have some.
    """
    yield heading(kind, columns)
    extra = tuple((each.heading, each.meaning) for each in columns)
    yield from _section("columns", (*_COLUMNS[kind], *extra))
    yield from _section("rights", _RIGHTS)
    if kind is EptPages:
        # Other listings do without what it imports.
        from crosswalk.emu.report.ept import EPT_FLAGS  # noqa: PLC0415

        yield from _section("flags", tuple(EPT_FLAGS.values()))
    elif issubclass(kind, Pages):
        yield from _section("flags", _FLAGS)
    if issubclass(kind, Ranges):
        yield from (_FOLDED if kind is Ranges else _FOLDED_GUEST)
    if colours:
        yield _RED


def _section(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield f"{title}:"
    width = max(len(name) for name, _ in rows)
    for name, meaning in rows:
        yield f"  {name:<{width}}  {meaning}".rstrip()
