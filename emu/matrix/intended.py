"""What accesses are meant to come to that the emulated CPU lacks a feature for.

The feature is taken away and its effect put in the address: what was observed of a read by the
address without its metadata is what a read by the tagged pointer has to come to. Where the address
leads is stated by the generator of layouts, apart from the walker.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emu.check.compare import spread
from emu.fuzz.generate.pointers import linear_of
from emu.fuzz.layout import Layout
from emu.probe import Stand
from emu.probe.scope import FEATURES, Lacking
from walker.columns import Kind, Outcomes
from walker.context import CR3, CR4, EFER, PagingContext

__all__ = ["FORESEEN", "intended_outcomes", "plain"]

FORESEEN = np.array([name in ("LAM", "UAI", "LASS") for name in ("", *FEATURES)])
"""bool: of which values that `lacking` returns the outcome can be foreseen like this."""


def plain(context: PagingContext) -> PagingContext:
    """Return the context without LAM, UAI and LASS."""
    return replace(
        context,
        cr3=context.cr3 & ~(CR3.LAM_U48 | CR3.LAM_U57),
        cr4=context.cr4 & ~(CR4.LAM_SUP | CR4.LASS),
        efer=context.efer & ~EFER.UAIE,
    )


def intended_outcomes(
    stand: Stand, layout: Layout, predicted: Outcomes, lacking: Lacking, *, bulk: bool = True
) -> tuple[Outcomes, NDArray[np.bool_]]:
    """Return the predictions with the intended outcomes in their place, and bool[n]: of which.

    Of accesses that need no feature, or one whose outcome isn't foreseen, the prediction stays.
    Raises as `Prober.probe` does; the stand's prober has then another address space.
    """
    chosen = FORESEEN[lacking]
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return predicted, chosen
    accesses = layout.accesses.take(rows)
    linear, strange, barred = linear_of(layout.context, accesses)
    walks = ~strange & ~barred
    outcomes = Outcomes.empty(len(rows))
    outcomes.kind[~walks] = Kind.GENERAL_PROTECTION
    prober = stand.prober(layout.memory(), plain(layout.context))
    asked = replace(accesses, va=linear).take(np.flatnonzero(walks))
    # What isn't observed isn't compared: page size and rights.
    return spread(
        predicted, chosen, spread(outcomes, walks, prober.probe(asked, bulk=bulk))
    ), chosen
