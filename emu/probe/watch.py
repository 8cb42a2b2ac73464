"""Many accesses to frames that carry no signature, in one run: a hook sees each being made."""

from collections.abc import Callable

from unicorn import UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE, UC_MEM_WRITE

from crosswalk.emu.probe.bulk import BulkRig
from crosswalk.emu.probe.collect import NOTE_WORDS, SEEN
from crosswalk.emu.probe.job import Job
from crosswalk.emu.probe.loops import OUT_WORDS, RECORD_BYTES, WATCHED
from crosswalk.emu.probe.space import NOWHERE, Space

__all__ = ["WatchRig"]


class WatchRig(BulkRig):
    """A rig for reads and writes of paging structures.

    What is found there says nothing of where it is, so the hook's physical address is what
    counts. When the hook is called the walk is over, and the store is not yet made: what the walk
    changed is taken down then, and what is stored undone at the loop's next read.
    """

    _behind = WATCHED

    def __init__(self, space: Space, own: tuple[int, int]) -> None:
        super().__init__(space, own, fetch=False)
        self._words_of: list[list[tuple[int, int]]] = []
        self._first_record = self._first_out = 0
        self._undo: tuple[int, int] | None = None
        # Of the arena's own pages nothing is to be seen.
        for span in ((0, own[0] - 1), (own[1], (1 << 64) - 1)):
            self._engine.hook_memory(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._see, span)

    @property
    def possible(self) -> bool:
        """Whether it can be told, while the engine runs, which access is being made."""
        return self._live is not None

    def _prepare_run(self, job: Job, first: int, count: int) -> None:
        part = slice(first, first + count)
        self._words_of = [
            [(at, value) for at, value in zip(row, values, strict=True) if at != NOWHERE]
            for row, values in zip(job.word[part].tolist(), job.before[part].tolist(), strict=True)
        ]
        view = self._arena.lent[int(job.lent[first])].view(int(job.accesses.cpl[first]))
        self._first_record = view.records
        self._first_out = self._space.byte_at(self._arena.outs) >> 3
        self._undo = None

    def _hook(self) -> Callable[[object, int, object], None]:
        note = super()._hook()

        def fault(engine: object, vector: int, data: object) -> None:
            note(engine, vector, data)
            self._take_down(self._notes[-NOTE_WORDS])

        return fault

    def _take_down(self, record: int) -> None:
        """Do what FIX does elsewhere: write down what the walk changed, and put it back."""
        number = (record - self._first_record) // RECORD_BYTES
        if not 0 <= number < len(self._words_of):
            return  # No routine of ours; the run counts for nothing.
        view, out = self._space.view, self._first_out + number * OUT_WORDS
        for step, (at, before) in enumerate(self._words_of[number], 1):
            after = view[at]
            if after != before:
                view[out + step], view[at] = after, before

    def _see(
        self, _engine: object, event: int, pa: int, size: int, _value: int, _data: object
    ) -> bool:
        content = self._space.bytes
        if self._undo is not None:
            place, byte = self._undo
            content[place], self._undo = byte, None
        # The loop's own accesses are of eight bytes.
        if size == 1 and self._live is not None:
            record = self._live.quads[self._register["r15"]]
            self._notes.extend((record, 0, SEEN, 0, pa))
            self._take_down(record)
            place = self._space.byte_at(pa) if event == UC_MEM_WRITE else NOWHERE
            if place != NOWHERE:
                self._undo = place, content[place]
        return True
