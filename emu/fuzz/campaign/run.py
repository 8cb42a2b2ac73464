"""The campaign itself: tasks in, results in order, findings written as they come."""

import signal
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from crosswalk.emu.findings.findings import Caseless, Finding, attempted
from crosswalk.emu.findings.layout import layout_case
from crosswalk.emu.findings.signature import failed_signature, lost_signature, without_numbers
from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND, Plan
from crosswalk.emu.fuzz.campaign.state import (
    Found,
    State,
    made_of,
    note_tally,
    pack,
    tally_of,
    unpack,
)
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.campaign.work import Done, Failed, Kept, Results, Task, kept_of, results_of
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.walker.errors import CrosswalkError

__all__ = ["TRIED", "Campaign", "Progress"]

TRIED = "a layout that can be tried"
"""What is due where Crosswalk itself fails on a layout."""

_Waiting = deque[tuple[Task, Callable[[], Results]]]

_AHEAD = 2  # Tasks in the queue for each worker.
_SAVED_EVERY = 5.0  # Seconds: how much work a kill can cost.


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is, and what of it was done `_now`, in this run."""

    layouts: int
    probes: int
    findings: int
    seen: int
    layouts_now: int
    probes_now: int


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off interrupts, so that what is within is done as a whole, and the state can be written.

    Masking them wouldn't do: another thread would take the signal.
    """
    came: list[int] = []
    before = []
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.default_int_handler:
                before.append(number)
                signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number in before:
            signal.signal(number, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


class Campaign:
    """One campaign, from its state on.

    `tally` counts the questions to the walker under test. `changed` names what isn't what it was
    when the state was written: "walker", "judge", "crosswalk".
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self._store = plan, store
        state = store.load()
        made = made_of(plan)
        self.changed = sorted(
            name for name, digest in made.items() if state.made_of.get(name, digest) != digest
        )
        state.made_of = made
        self._begin(state)

    def _begin(self, state: State) -> None:
        """Go on from a state."""
        self.state = state
        self.tally = tally_of(state)
        maps = [unpack(text) for text in state.rounds]
        seen = state.seen
        self.seen = CoverageMap() if seen is None else CoverageMap.unpack(unpack(seen))
        # The coverage map at the end of each of the last rounds, by the number of the round.
        last = state.layouts // ROUND - 1
        self._maps = {last - len(maps) + 1 + at: packed for at, packed in enumerate(maps)}
        self._nothing = CoverageMap().pack()
        self._seen = int(self.seen.bits.sum())

    def run(
        self,
        pool: Pool[Task, Results],
        cases: int | None,
        seconds: float | None,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        """Go on until so many layouts are done in all, or so many seconds are over in this run.

        The state is saved every few seconds, between two layouts, and at the end. Whatever ends
        this early, the next run goes on from there: it does again what was done since, and comes
        to the same. So it does after the `CrosswalkError` of a layout that has no result because
        its process ends for other reasons, time after time.
        """
        try:
            self._go_on(pool, cases, seconds, report)
        except KeyboardInterrupt:
            self.save()
            raise
        self.save()

    def _go_on(
        self,
        pool: Pool[Task, Results],
        cases: int | None,
        seconds: float | None,
        report: Callable[[Progress], None] | None,
    ) -> None:
        began, before = time.monotonic(), self.state.seconds
        saved = began
        layouts, probes = self.state.layouts, self.state.probes
        tasks = self._tasks(cases)
        waiting: _Waiting = deque()
        while True:
            self._fill(pool, tasks, waiting)
            if not waiting:
                break
            task, result = waiting.popleft()
            try:
                done = result()
            except ProcessEnded as ended:
                if task.count > 1:  # One of them did it: each by itself.
                    alone = [task.one(index) for index in task.indices]
                    waiting.extendleft([(each, pool.submit(each)) for each in alone][::-1])
                    continue
                done = Failed(ended.how)
            except ProcessLost as lost:
                self.save()
                raise CrosswalkError(
                    f"layout {task.index}: {lost}; the same command goes on"
                ) from lost
            with _uninterrupted():
                self._add_all(task, done)
                self.state.seconds = before + time.monotonic() - began
            if report is not None:
                report(self._progress(layouts, probes))
            now = time.monotonic()
            if now - saved > _SAVED_EVERY:
                self.save()
                saved = now
            if seconds is not None and now - began > seconds:
                break

    def forget(self, gone: Sequence[str], dropped: Sequence[str], *, anew: bool) -> None:
        """Take findings out: those that are gone, and those that only the layouts can show.

        With `anew` the layouts begin again, with the other findings kept. First the state says so,
        then the files follow.
        """
        state = self.state
        for slug in gone:
            state.gone[slug] = state.findings.pop(slug).signature
        for slug in dropped:
            del state.findings[slug]
        if anew:
            for found in state.findings.values():
                found.layout, found.count = None, 1
            state = State(
                state.plan, findings=state.findings, gone=state.gone, made_of=state.made_of
            )
            self._begin(state)
        if gone or dropped or anew:
            self.save()
        for slug in gone:
            self._store.retire(slug)
        for slug in dropped:
            self._store.drop(slug)

    def save(self) -> None:
        """Write the state, as it is after so many layouts."""
        self.state.seen = pack(self.seen.pack())
        note_tally(self.state, self.tally)
        self._store.save(self.state)

    def _progress(self, layouts: int, probes: int) -> Progress:
        """Return how far this is; so many layouts and probes were done before this run."""
        state = self.state
        return Progress(
            state.layouts,
            state.probes,
            len(state.findings),
            self._seen,
            state.layouts - layouts,
            state.probes - probes,
        )

    def _tasks(self, cases: int | None) -> Iterator[Task | None]:
        """Yield the tasks to come; None while a round waits for one before it to end."""
        index = self.state.layouts
        while cases is None or index < cases:
            number = index // ROUND - LAG
            if number >= 0 and number not in self._maps:
                yield None
                continue
            seen = self._maps.get(number, self._nothing)
            count = min(self.plan.at_once, ROUND - index % ROUND)
            count = count if cases is None else min(count, cases - index)
            found = frozenset(self.state.findings)
            yield Task(self.plan, index, seen, found, count, self.state.made_of.get("judge"))
            index += count

    def _fill(
        self,
        pool: Pool[Task, Results],
        tasks: Iterator[Task | None],
        waiting: _Waiting,
    ) -> None:
        while len(waiting) < pool.jobs * _AHEAD:
            task = next(tasks, None)
            if task is None:
                break
            waiting.append((task, pool.submit(task)))

    def _add_all(self, task: Task, results: Results) -> None:
        for index, result in results_of(task, results):
            self._add(task.one(index), result)
        if self.state.layouts % ROUND == 0:
            self._end_round()

    def _add(self, task: Task, result: Done | Failed) -> None:
        state = self.state
        state.layouts += 1
        if isinstance(result, Failed):
            state.lost += 1
            for lost in self._lost(task, result):
                self._keep(task.index, lost)
            return
        found = result.found
        self.tally += found.tally
        for name in ("probes", "divergent", "masked", "copied", "unproved"):
            setattr(state, name, getattr(state, name) + getattr(found, name))
        for name in ("known", "predicted_only", "not_asked", "not_shown", "not_exportable"):
            setattr(state, name, dict(Counter(getattr(state, name)) + getattr(found, name)))
        for name, seconds in found.seconds.items():
            state.parts[name] = state.parts.get(name, 0.0) + seconds
        new = int((~self.seen.bits[result.new]).sum())
        self._seen += new
        if new:
            state.growth.append((result.index, new))
        self.seen.bits[result.new] = True
        for finding in result.kept:
            self._keep(task.index, finding)

    def _lost(self, task: Task, result: Failed) -> tuple[Kept, ...]:
        """Return the finding of a layout without a result: with all of it, if it can be made."""
        if result.ours:
            signature = failed_signature(TRIED, without_numbers(result.why))
        else:
            signature = lost_signature(result.how, result.why)
        if signature.slug in self.state.findings:
            return (Kept(signature, 1),)
        failed: list[Caseless] = []
        case = attempted(
            "a layout that can be made",
            lambda: layout_case(self.plan.layout(task.index, task.seen)),
            failed,
        )
        lost = Caseless(signature) if case is None else Finding(signature, 1, 0, case, case)
        return kept_of(task, [lost, *failed], result.why)

    def _keep(self, layout: int | None, finding: Kept) -> None:
        """Keep a finding of a layout, or count it where its signature is known."""
        slug = finding.signature.slug
        found = self.state.findings.get(slug)
        if found is None:
            case = finding.case
            # First the case, then the mention of it.
            if case is not None:
                self._store.keep(slug, case)
            self.state.gone.pop(slug, None)
            self.state.findings[slug] = Found(
                str(finding.signature),
                finding.signature.witness,
                finding.count,
                layout,
                case=case is not None,
                again=finding.again,
            )
            for other in finding.failed:
                self._keep(layout, Kept(other.signature, other.count))
        elif found.layout is None:
            found.layout, found.count = layout, finding.count
        else:
            found.count += finding.count

    def keep_unreduced(self, finding: Caseless, case: bytes, layout: int | None) -> None:
        """Keep that a finding of `layout` can't be made small, with its case file."""
        self._keep(layout, Kept(finding.signature, 1, zlib.compress(case), "reduce"))

    def _end_round(self) -> None:
        number = self.state.layouts // ROUND - 1
        self._maps[number] = self.seen.pack()
        self._maps.pop(number - LAG, None)
        self.state.rounds = [pack(self._maps[at]) for at in sorted(self._maps)]
