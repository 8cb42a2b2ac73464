"""Who wrote words of memory in a boot: each store to them, with its instruction and its moment.

Where a store may be a copy of another word, that word's loads and stores are followed as well.

The emulator calls back before a store to these words, with its physical address, where code is
translated after it was asked to: hence before the first run. What the processor does is no store: A
and D, the frame of an event that is delivered; nor is the second half of one that crosses into
another page seen. So before each store the word is compared with what it was left as.
"""

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import unicorn

from crosswalk.emu.load.failure import console_lines
from crosswalk.emu.load.stack import stack_words
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.entry import Entry

__all__ = ["KEPT", "Moment", "Store", "StoreLog", "WatchedWord", "Written"]

KEPT = 16
"""How many stores to a word are kept, the last ones; one made in parts is one."""

_PAGE = 0x1000
_CLOSE = 64
"""How many bytes of code a copy's load may lie before its store."""
_SET_BY_WALKS = int(Entry.A | Entry.D)
_WIDEST = 8
"""Bytes of a store: the emulator makes a wider one in parts."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happened in a boot.

    `seconds` are those of the guest's clock since the entry; `events` counts exceptions and
    interrupts delivered, `system_calls` what it says; `lines` is the number of whole lines that the
    console had shown, of which `line` was the last one, fit for a terminal, or "" for none.
    """

    seconds: float
    events: int
    system_calls: int
    lines: int
    line: str


@dataclass(frozen=True, slots=True)
class Store:
    """A store to a word: what the word was before and after it, and the instruction that made it.

    `before` differs from what the store before this one had left where something else than a store
    has changed the word in between. `rip` is linear. `stack` are the words on the stack, the last
    one first. `times` counts the parts of one that an instruction made in parts, as a loop does
    that clears memory byte by byte: `before` is before the first of them, `after` behind the last.
    `covered` are the word's bytes that were stored to, a bit each. `order` counts the stores of a
    log. `source` is the address of the word that this one was copied from, if it was: one that may
    be its source, holds the same but for A and D, and was loaded just before, by this instruction
    or one a few before it.
    """

    before: int
    after: int
    rip: int
    cpl: int
    cr3: int
    moment: Moment
    covered: int
    stack: tuple[int, ...] = field(default=(), repr=False)
    times: int = 1
    order: int = 0
    source: int | None = None


@dataclass(frozen=True, slots=True)
class WatchedWord:
    """A word of memory: its physical address, a multiple of its `size` of 4 or 8 bytes."""

    pa: int
    size: int


@dataclass(frozen=True, slots=True)
class Written:
    """What was written to a word: `first` is what the loader left there, `last` what it is now.

    `count` is the number of stores; `stores` are the last of them, in order, `KEPT` at most.
    """

    word: WatchedWord
    first: int
    last: int
    count: int
    stores: tuple[Store, ...]


class StoreLog:
    """The stores to words of a machine's memory from now on, by whatever instruction and address.

    Made before the machine's first run. All stores take longer with it. `sources` are, by the
    address of a word, others that it may be copied from: of one size, and watched as well.
    """

    def __init__(
        self,
        machine: Machine,
        words: Iterable[WatchedWord],
        sources: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self._machine = machine
        self._words = tuple(dict.fromkeys(words))
        self._sources = sources or {}
        self._order = 0
        self._load: tuple[int, int] | None = None
        self._watch_loads(frozenset(pa for each in self._sources.values() for pa in each))
        self._first = {word: self._read(word) for word in self._words}
        self._counts = dict.fromkeys(self._words, 0)
        self._stores: dict[WatchedWord, deque[Store]] = {
            word: deque(maxlen=KEPT) for word in self._words
        }
        for word in self._words:
            machine.engine.hook_add(
                unicorn.UC_HOOK_MEM_WRITE,
                self._on_store,
                word,
                begin=max(word.pa - _WIDEST + 1, word.pa & -_PAGE),
                end=word.pa + word.size - 1,
            )

    def written(self) -> list[Written]:
        """Return what was written to each word so far, in the order in which they were given."""
        return [
            Written(
                word=word,
                first=self._first[word],
                last=self._read(word),
                count=self._counts[word],
                stores=tuple(self._stores[word]),
            )
            for word in self._words
        ]

    def _read(self, word: WatchedWord) -> int:
        return int.from_bytes(self._machine.ram.read(word.pa, word.size), "little")

    def _on_store(
        self, _uc: unicorn.Uc, _kind: int, pa: int, size: int, value: int, word: WatchedWord
    ) -> None:
        if word.pa < pa + size:
            self._note(word, pa, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def _watch_loads(self, sources: Container[int]) -> None:
        for word in self._words:
            if word.pa in sources:
                self._machine.engine.hook_add(
                    unicorn.UC_HOOK_MEM_READ,
                    self._on_load,
                    word,
                    begin=max(word.pa - _WIDEST + 1, word.pa & -_PAGE),
                    end=word.pa + word.size - 1,
                )

    def _on_load(
        self, _uc: unicorn.Uc, _kind: int, pa: int, size: int, _value: int, word: WatchedWord
    ) -> None:
        if word.pa >= pa + size:
            return
        cpu = self._machine.cpu
        cpu.load()
        self._load = word.pa, cpu.linear(cpu.rip)

    def _source(self, word: WatchedWord, value: int, rip: int) -> int | None:
        """Return the word that a value was copied from which an instruction stores to another."""
        if self._load is None:
            return None
        pa, loaded_by = self._load
        if pa not in self._sources.get(word.pa, ()) or not 0 <= rip - loaded_by <= _CLOSE:
            return None
        there = int.from_bytes(self._machine.ram.read(pa, word.size), "little")
        return None if (there ^ value) & ~_SET_BY_WALKS else pa

    def _note(self, word: WatchedWord, pa: int, stored: bytes) -> None:
        before = self._machine.ram.read(word.pa, word.size)
        after = bytearray(before)
        covered = 0
        for at, byte in enumerate(stored, pa - word.pa):
            if 0 <= at < word.size:
                after[at] = byte
                covered |= 1 << at
        cpu = self._machine.cpu
        cpu.load()
        rip, value = cpu.linear(cpu.rip), int.from_bytes(after, "little")
        self._order += 1
        store = Store(
            before=int.from_bytes(before, "little"),
            after=value,
            rip=rip,
            cpl=cpu.cpl,
            cr3=cpu.cr3,
            moment=self._moment(),
            covered=covered,
            stack=stack_words(cpu, self._machine.ram),
            order=self._order,
            source=self._source(word, value, rip),
        )
        self._counts[word] += 1
        stores = self._stores[word]
        if stores and _goes_on(stores[-1], store):
            last = stores.pop()
            store = replace(
                last,
                after=store.after,
                covered=last.covered | covered,
                times=last.times + 1,
                source=store.source,
            )
        stores.append(store)

    def _moment(self) -> Moment:
        machine = self._machine
        shown = machine.console.rpartition(b"\n")[0]
        begin = shown.rfind(b"\n") + 1
        return Moment(
            seconds=machine.time,
            events=sum(machine.counts.values()),
            system_calls=machine.system_calls,
            lines=machine.console.count(b"\n"),
            line="".join(console_lines(shown[begin:])).rstrip(),
        )


def _goes_on(last: Store, store: Store) -> bool:
    """Return whether a store is the next part of the last one: other bytes, and nothing between.

    The same bytes stored to again are another value, which somebody else may have asked for.
    """
    return not last.covered & store.covered and (
        (last.rip, last.cpl, last.cr3, last.moment, last.stack, last.after)
        == (store.rip, store.cpl, store.cr3, store.moment, store.stack, store.before)
    )
