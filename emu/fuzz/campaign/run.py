"""The campaign itself: tasks in, results in order, findings written as they come."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from crosswalk.emu.findings.findings import (
    INTENDED,
    SECOND_WALK,
    WRITABLE,
    Caseless,
    CompositeFinding,
    Finding,
    attempted,
)
from crosswalk.emu.findings.layout import layout_case
from crosswalk.emu.findings.signature import (
    CROSSWALK,
    failed_signature,
    lost_signature,
    without_numbers,
)
from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND, Plan
from crosswalk.emu.fuzz.campaign.state import Found, State, pack, unpack
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.campaign.work import Done, Failed, Task
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import AnyFinding
from crosswalk.emu.report.composites import dump_composite
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats import dump_case

__all__ = ["TRIED", "Campaign", "Progress"]

TRIED = "a layout that can be tried"
"""What is due where Crosswalk itself fails on a layout."""

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


class Campaign:
    """One campaign, from its state on."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self._store = plan, store
        self.state: State = store.load()
        maps = [unpack(text) for text in self.state.rounds]
        seen = self.state.seen
        self.seen = CoverageMap() if seen is None else CoverageMap.unpack(unpack(seen))
        # The coverage map at the end of each of the last rounds, by the number of the round.
        last = self.state.layouts // ROUND - 1
        self._maps = {last - len(maps) + 1 + at: packed for at, packed in enumerate(maps)}
        self._nothing = CoverageMap().pack()
        self._seen = int(self.seen.bits.sum())

    def run(
        self,
        pool: Pool[Task, Done | Failed],
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
        began, before = time.monotonic(), self.state.seconds
        saved = began
        layouts, probes = self.state.layouts, self.state.probes
        tasks = self._tasks(cases)
        waiting: deque[tuple[Task, Callable[[], Done | Failed]]] = deque()
        while True:
            self._fill(pool, tasks, waiting)
            if not waiting:
                break
            task, result = waiting.popleft()
            try:
                done = result()
            except ProcessEnded as ended:
                done = Failed(ended.how)
            except ProcessLost as lost:
                self.save()
                raise CrosswalkError(
                    f"layout {task.index}: {lost}; the same command goes on"
                ) from lost
            self._add(task, done)
            self.state.seconds = before + time.monotonic() - began
            if self.state.layouts % ROUND == 0:
                self._end_round()
            if report is not None:
                report(self._progress(layouts, probes))
            now = time.monotonic()
            if now - saved > _SAVED_EVERY:
                self.save()
                saved = now
            if seconds is not None and now - began > seconds:
                break
        self.save()

    def save(self) -> None:
        """Write the state, as it is after so many layouts."""
        self.state.seen = pack(self.seen.pack())
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
            yield Task(self.plan, index, self._maps.get(number, self._nothing))
            index += 1

    def _fill(
        self,
        pool: Pool[Task, Done | Failed],
        tasks: Iterator[Task | None],
        waiting: deque[tuple[Task, Callable[[], Done | Failed]]],
    ) -> None:
        while len(waiting) < pool.jobs * _AHEAD:
            task = next(tasks, None)
            if task is None:
                break
            waiting.append((task, pool.submit(task)))

    def _add(self, task: Task, result: Done | Failed) -> None:
        state = self.state
        state.layouts += 1
        if isinstance(result, Failed):
            state.lost += 1
            for lost in self._lost(task, result):
                self._keep(task, lost, result.why)
            return
        found = result.found
        for name in ("probes", "divergent", "masked", "copied", "answered", "declined"):
            setattr(state, name, getattr(state, name) + getattr(found, name))
        for name in ("known", "predicted_only", "not_asked"):
            setattr(state, name, dict(Counter(getattr(state, name)) + getattr(found, name)))
        for name, seconds in found.seconds.items():
            state.parts[name] = state.parts.get(name, 0.0) + seconds
        new = int((~self.seen.bits[result.new]).sum())
        self._seen += new
        if new:
            state.growth.append((result.index, new))
        self.seen.bits[result.new] = True
        for finding in found.findings:
            self._keep(task, finding)

    def _lost(self, task: Task, result: Failed) -> list[AnyFinding]:
        """Return the finding of a layout without a result: with all of it, if it can be made."""
        if result.ours:
            signature = failed_signature(TRIED, without_numbers(result.why))
        else:
            signature = lost_signature(result.how, result.why)
        failed: list[Caseless] = []
        case = attempted(
            "a layout that can be made",
            lambda: layout_case(self.plan.layout(task.index, task.seen)),
            failed,
        )
        lost = Caseless(signature) if case is None else Finding(signature, 1, 0, case, case)
        return [lost, *failed]

    def _is_counted(self, finding: AnyFinding) -> bool:
        """Count a finding whose signature is known; return whether it is."""
        found = self.state.findings.get(finding.signature.slug)
        if found is not None:
            found.count += finding.count
        return found is not None

    def _keep(self, task: Task, finding: AnyFinding, why: str = "") -> None:
        if self._is_counted(finding):
            return
        signature, slug = finding.signature, finding.signature.slug
        note = f"{signature} (layout {task.index}){why and f': {why}'}"
        failed: list[Caseless] = []
        data = None
        if not isinstance(finding, Caseless):
            data = attempted(WRITABLE, lambda: self._file(finding, note), failed)
        # First the case, then the mention of it.
        if data is not None:
            self._store.keep(slug, data)
        replays = data is not None and signature.witness not in {INTENDED, CROSSWALK}
        # Of an access, a replay holds the walker against the CPU, and not the second walk.
        stated = isinstance(finding, Finding) and signature.witness == SECOND_WALK
        self.state.findings[slug] = Found(
            str(signature),
            signature.witness,
            finding.count,
            task.index,
            case=data is not None,
            # What was intended is known of the layout, and not of its case.
            again="fuzz" if not replays else "reduce" if stated else "replay",
        )
        for other in failed:
            self._keep(task, other)

    def keep_unreduced(self, finding: Caseless, case: bytes, layout: int) -> None:
        """Keep that a finding of `layout` can't be made small, with its case file."""
        if self._is_counted(finding):
            return
        signature = finding.signature
        self._store.keep(signature.slug, case)
        self.state.findings[signature.slug] = Found(
            str(signature), signature.witness, 1, layout, again="reduce"
        )

    def _file(self, finding: Finding | CompositeFinding, note: str) -> bytes:
        if isinstance(finding, CompositeFinding):
            inner = replace(finding.case.case, seed=self.plan.seed, note=note)
            case = replace(finding.case, case=inner)
            return dump_composite(case, finding.allowed, finding.seen)
        # A walker under test may go wrong because of words that the walk does not read.
        whole = finding.whole if finding.signature.of_target else finding.case
        return dump_case(replace(whole, seed=self.plan.seed, note=note, walker=self.plan.walker))

    def _end_round(self) -> None:
        number = self.state.layouts // ROUND - 1
        self._maps[number] = self.seen.pack()
        self._maps.pop(number - LAG, None)
        self.state.rounds = [pack(self._maps[at]) for at in sorted(self._maps)]
