"""Differences between two address spaces, as lines of text and as JSON records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from crosswalk.emu.report.text import count_text, flags_text, size_text
from crosswalk.walker.compare import COUNTED, Aspect, Change, Changes
from crosswalk.walker.mappings import IGNORED
from crosswalk.walker.memory import FRAME
from crosswalk.walker.rights import Rights

__all__ = [
    "SIGNS",
    "ChangeColumn",
    "ChangeForm",
    "Totals",
    "change_heading",
    "change_lines",
    "change_records",
]

SIGNS = {"added": "+", "removed": "-", "changed": "~"}
"""What lines begin with, by what has become of what they name."""

_HEADING = f"  {'VA':<33} {'PA':<13} {'SIZE':>12} SUP USR  FLAGS"
_WIDTH = len(_HEADING) - len("  FLAGS") + 24
"""Where extra columns begin, two characters less."""
_NAMES = tuple(each.name.lower() for each in Change)
_SIGNS = [SIGNS.get(name, "") for name in _NAMES]
_ASPECTS = {each: str(each.name).lower() for each in Aspect}


@dataclass(frozen=True, slots=True)
class ChangeForm:
    """What is told of differences: by what is `counted`, and of flags but those in `ignore`.

    With `frames`, of collective rights of physical ranges.
    """

    counted: Aspect = COUNTED
    ignore: int = IGNORED
    frames: bool = False


class ChangeColumn(NamedTuple):
    """An extra column of n ranges: its key in records, heading, width in lines, and n texts."""

    key: str
    heading: str
    width: int
    texts: Sequence[str | None]


@dataclass(slots=True)
class Totals:
    """How much differs: ranges and bytes by the kind of change, ranges by what differs."""

    ranges: dict[Change, int] = field(default_factory=lambda: dict.fromkeys(Change, 0))
    bytes: dict[Change, int] = field(default_factory=lambda: dict.fromkeys(Change, 0))
    aspects: dict[Aspect, int] = field(default_factory=lambda: dict.fromkeys(Aspect, 0))
    roots: int = 0

    def add(self, rows: Changes) -> None:
        """Count these."""
        for kind in Change:
            some = rows.kind == kind
            self.ranges[kind] += int(some.sum())
            self.bytes[kind] += int((rows.piece * rows.count)[some].sum(dtype=np.uint64))
        changed = rows.aspects[rows.kind == Change.CHANGED]
        for aspect in Aspect:
            self.aspects[aspect] += int((changed & aspect != 0).sum())

    @property
    def differences(self) -> int:
        """The number of ranges that appeared, went or changed, and of roots that one side has."""
        return sum(self.ranges[kind] for kind in _SHOWN) + self.roots

    def record(self) -> dict[str, Any]:
        """Return the keys of JSON summaries about this."""
        return {
            **{
                str(kind.name).lower(): {"ranges": self.ranges[kind], "bytes": self.bytes[kind]}
                for kind in Change
            },
            "differs": {name: self.aspects[each] for each, name in _ASPECTS.items()},
            "roots": self.roots,
        }

    def lines(self) -> Iterator[str]:
        """Yield the same for people, what there is of it."""
        parts = [
            f"{count_text(self.ranges[kind], 'range')} {kind.name.lower()} "
            f"({size_text(self.bytes[kind])})"
            for kind in _SHOWN
            if self.ranges[kind]
        ]
        if self.roots:
            parts.append(f"{count_text(self.roots, 'root')} of one side alone")
        if parts:
            yield ", ".join(parts)
        if self.ranges[Change.RESIZED]:
            size = size_text(self.bytes[Change.RESIZED])
            yield f"{size} are mapped as before, in pages of another size (--page-sizes lists them)"
        if self.ranges[Change.UNKNOWN]:
            size = size_text(self.bytes[Change.UNKNOWN])
            yield f"{size} that one side maps can't be compared: the other lacks the tables for it"


_SHOWN = (Change.ADDED, Change.REMOVED, Change.CHANGED)


class _Place(NamedTuple):
    """What is mapped at the beginning of a range, on one side; `rights` are a `Rights`."""

    pa: int
    flags: int
    rights: int
    shift: int


class _Repeats(NamedTuple):
    """Pieces of a range that are mapped alike: how many, bytes of each, from one to the next."""

    pieces: int
    piece: int
    stride: int


# Of a million lines, few have flags or rights that others haven't.
@lru_cache(1 << 12)
def _names(shift: int, flags: int) -> str:
    """Return the names of the flags of a page of this size."""
    return flags_text(1 if 1 << shift == FRAME else 2, flags)


_RIGHTS = [Rights(bits) for bits in range(64)]
_RIGHTS_TEXTS = [f"{each.supervisor} {each.user}" for each in _RIGHTS]
_RIGHTS_RECORDS = [{"supervisor": each.supervisor, "user": each.user} for each in _RIGHTS]


def change_heading(columns: Sequence[ChangeColumn] = ()) -> str:
    """Return what the columns of `change_lines` are: what is there after; of what went, before."""
    cells = [f"{each.heading:<{each.width}}" for each in columns]
    return "  ".join([f"{_HEADING:<{_WIDTH + 2}}", *cells]).rstrip()


def change_lines(
    rows: Changes, form: ChangeForm, columns: Sequence[ChangeColumn] = ()
) -> Iterator[str]:
    """Yield a line for each row, with the cells of extra columns."""
    for row, (kind, va, size, aspects, old, new, repeats) in enumerate(_each(rows)):
        place = old if new is None else new
        if place is None:
            raise AssertionError(kind)
        text = _line(va, size, place, form, repeats)
        if columns:
            extra = [f"{each.texts[row] or '':<{each.width}}" for each in columns]
            text = "  ".join([f"{text:<{_WIDTH}}", *extra])
        parts = [text.rstrip()]
        if repeats is not None:
            count, piece, stride = repeats
            parts.append(f"{count:,} × {size_text(piece)}, every {size_text(stride)}")
        if old is not None and new is not None:
            parts.append(f"was {_was(old, new, aspects, form)}")
        yield f"{_SIGNS[kind]} {'; '.join(parts)}"


def _line(va: int, size: int, place: _Place, form: ChangeForm, repeats: _Repeats | None) -> str:
    rights = _RIGHTS_TEXTS[place.rights]
    if form.frames:
        return f"{va:013x}-{va + size - 1:013x} {size_text(size):>12} {rights}"
    pa = f"{place.pa:013x}" if form.counted & Aspect.FRAME else f"{'-':>13}"
    names = _names(place.shift, place.flags)
    mapped = size_text(size if repeats is None else repeats.pieces * repeats.piece)
    return f"{va:016x}-{va + size - 1:016x} {pa} {mapped:>12} {rights}  {names}"


def _was(old: _Place, new: _Place, aspects: int, form: ChangeForm) -> str:
    """Return in what a place was another before."""
    parts = []
    if aspects & Aspect.RIGHTS:
        parts.append(_RIGHTS_TEXTS[old.rights])
    if aspects & Aspect.FRAME:
        parts.append(f"at {old.pa:013x}")
    if aspects & Aspect.SIZE:
        parts.append(f"in pages of {size_text(1 << old.shift)}")
    if aspects & Aspect.FLAGS:
        parts.append(_flags_were(old.shift, old.flags, new.shift, new.flags, form.ignore))
    return ", ".join(parts)


@lru_cache(1 << 12)
def _flags_were(shift: int, flags: int, new_shift: int, new_flags: int, ignore: int) -> str:
    """Return in what flags were others before: the names that are gone, or new."""
    left_out = {*flags_text(2, ignore).split(), "PS"}
    before, after = (
        [name for name in _names(*each).split() if name not in left_out]
        for each in ((shift, flags), (new_shift, new_flags))
    )
    named = [f"with {name}" for name in before if name not in after]
    named += [f"without {name}" for name in after if name not in before]
    return ", ".join(named) or f"with flags {flags & ~ignore:#x}"


def change_records(
    rows: Changes, form: ChangeForm, columns: Sequence[ChangeColumn] = ()
) -> Iterator[dict[str, Any]]:
    """Yield a record for each row, with the values of extra columns, null for none."""
    for row, (kind, va, size, aspects, old, new, repeats) in enumerate(_each(rows)):
        yield {
            "change": _NAMES[kind],
            "pa" if form.frames else "va": hex(va),
            "size": size,
            **({} if repeats is None else {"pieces": repeats.pieces, "stride": repeats.stride}),
            "before": _record(old, form),
            "after": _record(new, form),
            "differs": [name for each, name in _ASPECTS.items() if aspects & each],
            **{each.key: each.texts[row] for each in columns},
        }


def _record(place: _Place | None, form: ChangeForm) -> dict[str, Any] | None:
    if place is None:
        return None
    rights = _RIGHTS_RECORDS[place.rights]
    if form.frames:
        return {"rights": rights}
    return {
        **({"pa": hex(place.pa)} if form.counted & Aspect.FRAME else {}),
        "flags": hex(place.flags),
        **({"page_size": 1 << place.shift} if form.counted & Aspect.SIZE else {}),
        "rights": rights,
    }


def _each(
    rows: Changes,
) -> Iterator[tuple[int, int, int, int, _Place | None, _Place | None, _Repeats | None]]:
    """Yield kind, first address, size in bytes, aspects, what was there and is, and repeats."""
    columns = (
        getattr(rows, f"{side}_{name}").tolist()
        for side in ("old", "new")
        for name in ("pa", "flags", "rights", "shift")
    )
    old_pa, old_flags, old_rights, old_shift, new_pa, new_flags, new_rights, new_shift = columns
    old = map(_Place, old_pa, old_flags, old_rights, old_shift)
    new = map(_Place, new_pa, new_flags, new_rights, new_shift)
    repeats = map(_Repeats, rows.count.tolist(), rows.piece.tolist(), rows.stride.tolist())
    first = (each.tolist() for each in (rows.kind, rows.va, rows.size, rows.aspects))
    for kind, va, size, aspects, was, now, again in zip(*first, old, new, repeats, strict=True):
        yield (
            *(kind, va, size, aspects),
            None if kind == Change.ADDED else was,
            None if kind == Change.REMOVED else now,
            again if again.stride else None,
        )
