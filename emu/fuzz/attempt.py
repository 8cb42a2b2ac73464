"""One layout, put to all witnesses: the walker, the emulated CPU, the intentions, and a peer."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emu.check.compare import choose, differing_fields
from emu.check.composite_check import CompositeStand
from emu.check.crosscheck import Predictor
from emu.fuzz.caseless import Caseless, attempted
from emu.fuzz.composite_finding import CompositeFinding, findings_in, gathered_of
from emu.fuzz.coverage import CELLS, coverage_of
from emu.fuzz.crossing import crossings
from emu.fuzz.findings import MEANT, WALKER, Finding, Findings, confirm
from emu.fuzz.intent import meant_outcomes
from emu.fuzz.layout import Layout
from emu.fuzz.signature import failure_signature
from emu.peers import Peer, PeerFailure
from emu.peers.judge import judge
from emu.probe import Stand
from emu.report.composite_case import CompositeCase
from walker.bulk import translate_many
from walker.columns import Outcomes
from walker.memory import SparseWords

__all__ = ["AnyFinding", "Attempt", "Tester"]


AnyFinding = Finding | CompositeFinding | Caseless


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one layout.

    `divergent` counts the accesses that no known emulator divergence explains, `known` the
    others. `coverage` is bool[n] as `coverage_of` returns it, `seconds` those of each part.
    """

    probes: int
    divergent: int
    known: Counter[str]
    findings: tuple[AnyFinding, ...]
    coverage: NDArray[np.bool_]
    seconds: dict[str, float]


class Tester:
    """Tries one layout after another; engines and a peer's process are kept in between.

    `predict` is the walker that is compared with the CPU, `peer` another one under test.
    """

    def __init__(self, predict: Predictor = translate_many, peer: Peer | None = None) -> None:
        self._predict = predict
        self._peer = peer
        self.forget()

    def attempt(self, make: Callable[[], Layout], *, cross: bool = False) -> Attempt:
        """Make a layout and try it; `ProbeError` where the emulator did what is no outcome.

        With `cross` accesses that cross pages are made as well, where there are any.
        """
        clock = _Clock()
        with clock.part("generate"):
            layout = make()
            memory = layout.memory()
        found, truth = self._try(layout, memory, clock)
        failed: list[Caseless] = []
        with clock.part("cover"):
            coverage = attempted(
                "a layout whose cells can be counted",
                lambda: coverage_of(memory, layout.context, layout.accesses, truth),
                failed,
            )
        tally = Attempt(
            len(layout.accesses),
            found.divergent,
            Counter(found.known),
            found.gathered(),
            np.zeros(CELLS.count, np.bool_) if coverage is None else coverage,
            clock.seconds,
        )
        if cross and layout.context.mode.long:
            with clock.part("cross"):
                crossed = attempted(
                    "a layout whose composites can be judged",
                    lambda: self._cross(layout, memory, tally),
                    failed,
                )
            tally = tally if crossed is None else crossed
        return replace(tally, findings=(*tally.findings, *failed))

    def _cross(self, layout: Layout, memory: SparseWords, tally: Attempt) -> Attempt:
        """Make accesses that cross pages, and add what came of them."""
        context = layout.context
        made, judged = self._composites.judge_possible(memory, context, crossings(layout))
        return replace(
            tally,
            probes=tally.probes + len(made),
            divergent=tally.divergent + int(judged.differ.sum()),
            known=tally.known + Counter(judged.known),
            findings=(*tally.findings, *gathered_of(memory, context, made, judged)),
        )

    def findings(self, layout: Layout) -> Findings:
        """Try a layout and return what was found."""
        return self._try(layout, layout.memory(), _Clock())[0]

    def composite_findings(self, case: CompositeCase) -> tuple[CompositeFinding, ...]:
        """Try a composite's case and return what was found; the peer isn't asked."""
        return findings_in(self._composites, case)

    def forget(self) -> None:
        """Let go of the engines: the next layout gets new ones."""
        self._stand = Stand()
        self._composites = CompositeStand(self._predict)

    def _try(
        self, layout: Layout, memory: SparseWords, clock: "_Clock"
    ) -> tuple[Findings, Outcomes]:
        context, accesses = layout.context, layout.accesses
        with clock.part("predict"):
            predicted = self._predict(memory, context, accesses)
        with clock.part("probe"):
            prober = self._stand.prober(memory, context)
            observed = prober.probe(accesses)
        found = Findings(layout, memory)
        with clock.part("compare"):
            differ = differing_fields(predicted, observed)
            known = found.add(WALKER, predicted, observed, differ)
            # Where the emulator is known to be wrong, the walker's word is taken for the truth.
            truth = choose(known, predicted, observed)
            meant = meant_outcomes(layout, truth)
            found.add(MEANT, meant, truth, differing_fields(meant, truth))
        if self._peer is not None:
            with clock.part("peer"):
                _ask(self._peer, layout, memory, truth, found)
        with clock.part("confirm"):
            confirm(prober, layout, observed, found.rows)
        return found, truth


def _ask(peer: Peer, layout: Layout, memory: SparseWords, truth: Outcomes, found: Findings) -> None:
    """Gather what the walker under test says otherwise, or that it doesn't answer."""
    context, accesses = layout.context, layout.accesses
    try:
        answers = peer.answer(memory, context, accesses)
    except PeerFailure as failure:
        found.add_failure(failure_signature(peer.name, failure))
        return
    for judged in judge(peer.claims, answers, memory, context, accesses, truth):
        found.add_judged(f"peer:{peer.name}", peer.claims, judged)


class _Clock:
    """Seconds, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done within to this part."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
