"""Runs before the runner has its place: what questions of any kind are compiled into."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.lending import Loan
from crosswalk.emu.judges.markers import markers
from crosswalk.emu.judges.ways import Ram, Tables, frames_of
from crosswalk.emu.machines.machine import CpuWish
from crosswalk.emu.probe.control import CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NXE, Control
from crosswalk.emu.probe.paths import PagingFormat, distinct
from crosswalk.guest.boot.image import Place
from crosswalk.guest.boot.log import FEATURE_BITS
from crosswalk.guest.boot.programs import CpuFacts, Program, Run
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.control import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = [
    "Asked",
    "Part",
    "Refusals",
    "Registers",
    "Whole",
    "cpu_context",
    "run_of",
    "run_words",
    "whole_refusal",
    "wish_of",
]

_EFER_LME, _EFER_TCE, _EFER_UAIE = 1 << 8, 1 << 15, 1 << 20
_CR0 = 1 << 31 | 1 << 16 | 1 << 0
_ET = 1 << 4
_PSE, _PAE, _PGE, _LA57, _PCIDE = 1 << 4, 1 << 5, 1 << 7, 1 << 12, 1 << 17
_PKS, _LASS, _LAM_SUP = 1 << 24, 1 << 27, 1 << 28
_CR4 = _PSE | _PAE | _PGE | _LA57 | _PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | _PKS | _LASS | _LAM_SUP

_VENDOR = Reason(Unjudged.NOT_SHOWN, "a CPU of its vendor has no such registers")

_AMD = frozenset({"AuthenticAMD", "HygonGenuine"})
_SMALL_RAM, _LARGE_RAM, _LARGE_WIDTH = 1 << 32, 1 << 36, 40
"""RAM that every machine is given, and of two sizes the larger; addresses of a CPU for that."""

_FEATURES = {
    _LA57: ("la57", "5-level paging"),
    CR4_PKE: ("pku", "protection keys for user pages"),
    _PKS: ("pks", "protection keys for supervisor pages"),
    CR4_SMEP: ("smep", "SMEP"),
    CR4_SMAP: ("smap", "SMAP"),
    _PCIDE: ("pcid", "PCIDs"),
    _LASS: ("lass", "linear-address-space separation"),
    _LAM_SUP: ("lam", "linear-address masking"),
}
_WISHED = frozenset({"la57", "pks", "pcid", "lass", "lam", "invpcid"})
"""What not every machine switches on unasked."""


@dataclass(frozen=True, slots=True)
class Registers:
    """Control registers as a machine is given them: the bits that paging looks at.

    `features` are what they need of a CPU, by name, each with words for people.
    """

    mode: PagingMode
    cr0: int
    cr3: int
    cr4: int
    efer: int
    pkru: int
    pkrs: int
    features: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, context: PagingContext) -> "Registers":
        """Return those of a context, from its raw bits."""
        control = Control.of(context)
        cr4 = context.cr4 & _CR4
        efer = context.efer & (EFER_NXE | _EFER_TCE)
        if control.long:
            efer = context.efer & (_EFER_LME | EFER_LMA | EFER_NXE | _EFER_TCE | _EFER_UAIE)
        needed = [name for bit, name in _FEATURES.items() if cr4 & bit]
        if control.user_u57 or control.user_u48:
            needed.append(_FEATURES[_LAM_SUP])
        if efer & EFER_NXE:
            needed.append(("nx", "EFER.NXE"))
        if efer & _EFER_UAIE:
            needed.append(("uai", "upper-address ignore"))
        return cls(
            mode=PagingMode(control.mode),
            cr0=context.cr0 & _CR0 | _ET,
            # MOV to CR3 takes 32 bits outside 64-bit mode.
            cr3=context.cr3 if control.long else context.cr3 & 0xFFFF_FFFF,
            cr4=cr4,
            efer=efer,
            pkru=context.pkru if cr4 & CR4_PKE else 0,
            pkrs=context.pkrs if control.long and cr4 & _PKS else 0,
            features=tuple(dict(needed).items()),
        )

    def key(self, pkru: int = 0) -> int | None:
        """Return a protection key that lets the runner's own pages be read and written.

        Under PKRS, and under PKRU, too, where there is one, with the bits `pkru` set or not: no
        supervisor page is subject to that, but for a machine that is wrong. None if PKRS denies all
        of them something.
        """
        under = [self.pkrs | self.pkru | pkru, self.pkrs]
        return next((k for each in under for k in range(16) if not each >> 2 * k & 3), None)


def wish_of(context: PagingContext, ram: Iterable[tuple[int, int]] = ()) -> CpuWish:
    """Return the CPU that a question is for; `ram` are ranges (start, size) that it has RAM in."""
    features = {name for name, _ in Registers.of(context).features}
    large = any(start + size > _SMALL_RAM and start < _LARGE_RAM for start, size in ram)
    return CpuWish(
        maxphyaddr=context.maxphyaddr,
        vendor=context.vendor,
        page1gb=context.page1gb,
        features=frozenset(features & _WISHED),
        ram=_LARGE_RAM if large and context.maxphyaddr >= _LARGE_WIDTH else None,
    )


def whole_refusal(
    context: PagingContext, facts: CpuFacts | None, *, tables_backed: bool
) -> Reason | None:
    """Return why nothing of an address space can be asked, or None."""
    if context.encryption_mask:
        return Reason(Unjudged.NOT_EXPORTABLE, "a mask of encryption bits, which no judge is told")
    if not tables_backed:
        return Reason(Unjudged.NOT_EXPORTABLE, "CR3 points to no RAM of the case")
    registers = Registers.of(context)
    if registers.key() is None:
        return Reason(Unjudged.NOT_EXPORTABLE, "PKRS denies every supervisor page something")
    there = FEATURE_BITS if facts is None else facts.features
    missing = next((words for name, words in registers.features if name not in there), None)
    if missing is None:
        return None
    if facts is None:
        return Reason(Unjudged.NOT_EXPORTABLE, f"{missing}: images don't see whether a CPU has it")
    return Reason(Unjudged.NOT_SHOWN, f"the CPU has no {missing}")


def cpu_context(context: PagingContext, facts: CpuFacts) -> PagingContext | Reason:
    """Return a question's context on a machine's CPU, or that a CPU of its vendor has no such."""
    try:
        return replace(
            context,
            vendor=Vendor.AMD if facts.vendor in _AMD else Vendor.INTEL,
            maxphyaddr=facts.maxphyaddr,
            page1gb="pdpe1gb" in facts.features,
        )
    except BadInput as error:
        return replace(_VENDOR, exact=f"{_VENDOR.text}: {error}")


_MOST_EXACT = 128
"""So many reasons of a question have their values; there are 255 at most."""


class Refusals:
    """Why rows have no outcome: `why` uint8[n] is 0, or 1 + an index of `reasons`."""

    def __init__(self, count: int) -> None:
        self.why = np.zeros(count, np.uint8)
        self.reasons: list[Reason] = []

    def add(self, rows: NDArray[np.bool_] | NDArray[np.intp] | int, reason: Reason) -> None:
        """Give these rows this reason, but for those that have one."""
        picked = np.zeros(len(self.why), np.bool_)
        picked[rows] = True
        picked &= self.why == 0
        if not picked.any():
            return
        if reason not in self.reasons and len(self.reasons) >= _MOST_EXACT:
            reason = replace(reason, exact="")
        if reason not in self.reasons:
            if len(self.reasons) == 255:
                reason = self.reasons[-1]
            else:
                self.reasons.append(reason)
        self.why[picked] = 1 + self.reasons.index(reason)

    def add_all(self, why: NDArray[np.uint8], reasons: Sequence[Reason]) -> None:
        """Give rows the reasons that they have elsewhere, but for those that have one."""
        for number, reason in enumerate(reasons, 1):
            self.add(why == number, reason)

    @property
    def left(self) -> NDArray[np.bool_]:
        """bool[n]: those without a reason."""
        found: NDArray[np.bool_] = self.why == 0
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A run without the runner's own pages in it.

    `loan` are the slots lent of each of `roots`, `taken` uint64[n] the frames that the run uses,
    ascending: the runner has to lie elsewhere.
    """

    run: Run
    form: PagingFormat
    roots: tuple[int, ...]
    loan: Loan
    taken: U64

    def placed(self, place: Place) -> Run:
        """Return the run with the runner's pages shown in the slots lent."""
        words = dict(self.run.words.tolist())
        lent = [(self.loan.alias, False)]
        if self.loan.user != self.loan.alias:
            lent.append((self.loan.user, True))
        for root in self.roots:
            for slot, user in lent:
                pa = root + slot * self.form.entry_bytes
                up, entry = 8 * (pa & 7), place.lent(self.run.mode, user=user)
                keep = words.get(pa & -8, 0) & ~((1 << 8 * self.form.entry_bytes) - 1 << up)
                words[pa & -8] = keep | entry << up
        return replace(
            self.run,
            words=np.array(sorted(words.items()), np.uint64).reshape(-1, 2),
            alias=self.form.slot_va(self.loan.alias),
            user=self.form.slot_va(self.loan.user),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A run, and the rows of a question that its programs are for, in order."""

    asked: Asked
    rows: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Whole:
    """The tables of an address space as a run gets them: those in `usable` frames.

    Addresses from 1 << `width` on are taken for reserved bits.
    """

    tables: Tables
    usable: NDArray[np.bool_]
    width: int

    @classmethod
    def of(cls, tables: Tables, ram: Ram, width: int) -> "Whole":
        """Return those that lie in RAM, below 1 << `width`."""
        usable = ram.has(tables.frames) & (tables.frames >> np.uint64(width) == 0)
        return cls(tables, usable, width)


def run_words(whole: Whole, ram: Ram, walked: U64, targets: U64) -> tuple[U64, NDArray[np.uint64]]:
    """Return the frames that are cleared and used, ascending, and the words to write.

    `walked` uint64[k] are frames of tables on the walks of the run, `targets` uint64[m] the words
    that its accesses may reach, those in tables not among them. Of tables in parts of memory that
    a machine may lack, those on the walks are written alone.
    """
    tables = whole.tables
    kept = whole.usable & ((ram.zones(tables.frames) == 0) | np.isin(tables.frames, walked))
    frames, content = tables.frames[kept], tables.words[kept]
    row, at = np.nonzero(content)
    where = frames[row] + np.uint64(8) * at.astype(np.uint64)
    words = np.stack([where, content[row, at]], axis=1)
    marked = distinct(targets)
    words = np.concatenate([words, np.stack([marked, markers(marked)], axis=1)])
    clear = distinct(np.concatenate([frames, frames_of(marked)]))
    return clear, words


def run_of(
    registers: Registers,
    space: tuple[U64, NDArray[np.uint64]],
    programs: Iterable[Program],
    *,
    pkru: int = 0,
    maxphyaddr: int = 0,
) -> Run:
    """Return a run under these registers; the runner's own pages are not in it yet.

    `pkru` are bits that programs may set in PKRU; `maxphyaddr` is the run's.
    """
    clear, words = space
    return Run(
        mode=registers.mode,
        cr0=registers.cr0,
        cr3=registers.cr3,
        cr4=registers.cr4,
        efer=registers.efer,
        pkru=registers.pkru,
        pkrs=registers.pkrs,
        alias_key=registers.key(pkru) or 0,
        maxphyaddr=maxphyaddr,
        needs=tuple(name for name, _ in registers.features),
        clear=clear,
        words=words,
        programs=tuple(programs),
    )
