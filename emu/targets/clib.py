"""A walker in C: `c:library.so`, with the interface of `crosswalk.h`."""

import ctypes
import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crosswalk.emu.targets.answers import Answers, Given
from crosswalk.emu.targets.capabilities import Capability, parse_claims, parse_modes
from crosswalk.emu.targets.loaded import GiveUp
from crosswalk.emu.targets.mapping_lists import MAX_MAPPINGS, Lister, rights_text
from crosswalk.emu.targets.questions import Course, Questions, listed
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.rights import GRANTS

__all__ = ["CLibrary"]

_TOP = (1 << 64) - 1
_TRANSLATES = frozenset({Capability.TRANSLATION, Capability.RIGHTS})
_LISTED = frozenset({Capability.LEAVES, Capability.FLAGS})
_EXPORTS = (
    # What each answers, and what of that by choice alone.
    ("crosswalk_translate", _TRANSLATES, frozenset[Capability]()),
    ("heki_walk", _LISTED, frozenset({Capability.RANGES})),
    ("crosswalk_list", _LISTED | {Capability.EFFECTIVE}, frozenset({Capability.RANGES})),
)
_SILENT = -1
_PARTS = sum(Given)


_GUARDED = 8192  # Each takes two of the 65,530 mappings that a process may have.
_LIBC = ctypes.CDLL(None, use_errno=True)


class GuardedMemory:
    """Read-only copies of frames in this process, made on first use, with a guard page behind.

    `function` is for C to call: it takes a physical address and returns the address of its
    frame's copy, a null pointer outside RAM. A write there, or a read past the frame, is a
    segmentation fault.
    """

    Function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint64)

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._kept: list[object] = []
        self._zeros = self._guarded(bytes(FRAME))
        self._at: dict[int, int | None] = {}
        self.function = self.Function(self._frame)

    def _frame(self, pa: int) -> int | None:
        start = pa // FRAME * FRAME
        if start not in self._at:
            self._at[start] = self._found(np.array([start], np.uint64))
        return self._at[start]

    def _found(self, frame: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> int | None:
        if not self._memory.backed(frame)[0]:
            return None
        content = self._memory.tables(frame).tobytes()
        if not any(content):
            return self._zeros
        if len(self._kept) < 2 * _GUARDED:
            return self._guarded(content)
        buffer = ctypes.create_string_buffer(content, FRAME)
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def _guarded(self, content: bytes) -> int:
        pages = mmap.mmap(-1, 2 * FRAME, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages[:FRAME] = content
        view = ctypes.c_char.from_buffer(pages)
        self._kept += [pages, view]
        at = ctypes.addressof(view)
        for address, rights in ((at, mmap.PROT_READ), (at + FRAME, 0)):
            if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(FRAME), rights):
                raise OSError(ctypes.get_errno(), "mprotect")
        return at


class _Memory(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("cr0", "cr3", "cr4", "efer")),
        *((name, ctypes.c_uint32) for name in ("pkru", "maxphyaddr", "page1gb", "amd")),
        ("frame", GuardedMemory.Function),
        ("pkrs", ctypes.c_uint32),
    )


class _Args(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("va", "pa", "size", "flags"))


_Callback = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Args))


class _Mapping(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("va", "pa", "size", "flags")),
        *((name, ctypes.c_uint32) for name in ("rights", "given")),
    )


_MappingCallback = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Mapping))
Mapped = TypeVar("Mapped")


def _given(mapping: Any) -> tuple[Any, ...]:
    """Return a mapping as a row of a list, without the parts that the library doesn't give."""
    rights = mapping.rights
    if mapping.given & ~_PARTS:
        return (f"given {mapping.given:#x}, which has unknown bits",)
    return (
        mapping.va,
        mapping.pa if mapping.given & Given.PA else None,
        mapping.size,
        mapping.flags if mapping.given & Given.FLAGS else None,
        # What is none is refused with all else that makes no sense.
        (rights_text(rights) if rights < GRANTS else hex(rights))
        if mapping.given & Given.RIGHTS
        else None,
    )


class CLibrary:
    """A shared library that walks guarded memory; `claims` are those that it states, or can answer.

    Raises `BadInput` where it can't be loaded or lacks what it has to export, and for a claim
    that its exports can't answer.
    """

    def __init__(self, path: str, chosen: frozenset[Capability] | None, give_up: GiveUp) -> None:
        if map_file(path).data[:4] != b"\x7fELF":
            raise BadInput(f"{path} is no shared library")
        try:
            self._library = ctypes.CDLL(str(Path(path).resolve()))
        except OSError as error:
            raise BadInput(str(error)) from error
        if not hasattr(self._library, "crosswalk_attach"):
            raise BadInput("exports no crosswalk_attach")
        there = [row for row in _EXPORTS if hasattr(self._library, row[0])]
        if not there:
            raise BadInput("exports none of crosswalk_translate, heki_walk and crosswalk_list")
        most: frozenset[Capability] = frozenset().union(*(claims for _, claims, _ in there))
        able = most.union(*(claims for _, _, claims in there))
        stated, modes = self._stated("crosswalk_claims"), self._stated("crosswalk_modes")
        own = most if stated is None else parse_claims(stated, "crosswalk_claims")
        self.claims = own if chosen is None else chosen
        if not self.claims <= able:
            raise BadInput(f"its exports answer {', '.join(sorted(able))} only")
        self.modes = None if modes is None else parse_modes(modes, "crosswalk_modes")
        self._give_up = give_up
        self._memory: GuardedMemory | None = None

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, questions: Questions, course: Course
    ) -> Answers:
        """Return the library's answers to the accesses, and its list.

        The interface has no encryption mask: with one, the library isn't asked.
        """
        answers = Answers.none(len(questions.accesses))
        guarded = GuardedMemory(memory)
        state = _Memory(
            context.cr0,
            context.cr3,
            context.cr4,
            context.efer,
            context.pkru,
            context.maxphyaddr,
            int(context.page1gb),
            int(context.vendor is Vendor.AMD),
            guarded.function,
            context.pkrs,
        )
        if context.encryption_mask or self._declines(state):
            declined = listed(context, questions, lambda _va, _end: NotImplemented, course)
            return replace(answers, listing=declined)
        self._library.crosswalk_attach(ctypes.byref(state))
        self._memory = guarded  # Frees the copies that the library had before, and not earlier.
        self._translate(questions.accesses, answers, course)
        own = hasattr(self._library, "crosswalk_list")
        lister: Lister = self._listed_with_rights if own else self._listed
        return replace(answers, listing=listed(context, questions, lister, course))

    def _stated(self, export: str) -> str | None:
        """Return the text that a function of the library returns, None where it has none."""
        function = getattr(self._library, export, None)
        if function is None:
            return None
        function.restype = ctypes.c_char_p
        text = function()
        if text is None:
            raise BadInput(f"{export} returned a null pointer")
        return printable(text.decode(errors="replace"))

    def _declines(self, state: "_Memory") -> bool:
        """Return whether the library says that it has no answers for an address space."""
        if not hasattr(self._library, "crosswalk_declines"):
            return False
        result = self._library.crosswalk_declines(ctypes.byref(state))
        if result not in (0, 1):
            message = "crosswalk_declines returned neither 0 nor 1"
            raise NoAnswer(Failure.NONSENSE, message, f"{message}: {result}")
        return bool(result)

    def _noting(self, found: list[Mapped], take: Callable[[Any], Mapped]) -> Callable[[Any], None]:
        """Return a function for the library to call, which adds what `take` makes of a mapping."""
        give_up = self._give_up

        def note(pointer: Any) -> None:
            # Nothing can be raised through the library, which may never return.
            if len(found) > MAX_MAPPINGS:
                message = f"more than {MAX_MAPPINGS:,} mappings"
                give_up(NoAnswer(Failure.FLOOD, "too many mappings", message))
            if not pointer:
                kind = "called back with a null pointer"
                give_up(NoAnswer(Failure.NONSENSE, kind, kind))
            found.append(take(pointer[0]))

        return note

    def _listed_with_rights(self, va: int, end: int) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        callback = _MappingCallback(self._noting(found, _given))
        bounds = (ctypes.c_uint64(va), ctypes.c_uint64(end - 1))
        self._library.crosswalk_list(*bounds, callback)
        return found

    def _listed(self, va: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        found: list[tuple[int, int, int, int]] = []
        args = _Args()
        callback = _Callback(
            self._noting(
                found, lambda mapping: (mapping.va, mapping.pa, mapping.size, mapping.flags)
            )
        )
        bounds = (ctypes.c_uint64(va), ctypes.c_uint64(min(end, _TOP)))
        self._library.heki_walk(*bounds, callback, ctypes.byref(args))
        yield from found if end <= _TOP else _to_the_end(found)

    def _translate(self, accesses: Accesses, answers: Answers, course: Course) -> None:
        pa = ctypes.c_uint64()
        columns = (accesses.va, accesses.type, accesses.cpl, accesses.ac)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        out = answers.outcomes
        for row, (va, kind, cpl, ac) in enumerate(rows):
            course.place[0] = row
            result = self._library.crosswalk_translate(
                ctypes.c_uint64(va), kind, cpl, int(ac), ctypes.byref(pa)
            )
            if result not in (0, 1, _SILENT):
                message = "crosswalk_translate returned neither 0, 1 nor -1"
                nonsense = NoAnswer(Failure.NONSENSE, message, f"{message}: {result}")
                course.refused[row] = nonsense
                continue
            answers.silent[row] = result == _SILENT
            out.kind[row] = Kind.OK if result == 1 else Kind.PAGE_FAULT
            out.pa[row] = np.uint64(pa.value if result == 1 else 0)


def _to_the_end(
    found: Iterable[tuple[int, int, int, int]],
) -> Iterator[tuple[int, int, int, int]]:
    """Yield mappings; one cut off at 2^64 - 1, for want of a larger end, is whole again."""
    for va, pa, size, flags in found:
        yield va, pa, size + (va + size == _TOP), flags
