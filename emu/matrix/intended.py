"""What accesses are meant to come to that the emulated CPU lacks a feature for.

LAM, UAI and LASS are taken away and their effect put in the address: what is observed of a read by
the address without its metadata is what a read by the tagged pointer has to come to. Where the
address leads is stated by the generator of layouts, apart from the walker. Of addresses that are
too wide, and under AMD's rules, which the emulated CPU hasn't, the second walk by the manuals says
it.
"""

from dataclasses import replace

import numpy as np

from crosswalk.emu.check.compare import spread
from crosswalk.emu.check.explain import by_the_manuals
from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.generate.pointers import linear_of
from crosswalk.emu.probe import ProberCache
from crosswalk.emu.probe.scope import FEATURES, Lacking
from crosswalk.walker.columns import Kind, Outcomes
from crosswalk.walker.context import CR3, CR4, EFER, PagingContext, Vendor

__all__ = ["intended_outcomes", "plain"]

_REPLACED = np.array([name in ("LAM", "UAI", "LASS") for name in ("", *FEATURES)])
"""bool: which values that `lacking` returns stand for a feature that can be taken away."""


def plain(context: PagingContext) -> PagingContext:
    """Return the context without LAM, UAI and LASS."""
    return replace(
        context,
        cr3=context.cr3 & ~(CR3.LAM_U48 | CR3.LAM_U57),
        cr4=context.cr4 & ~(CR4.LAM_SUP | CR4.LASS),
        efer=context.efer & ~EFER.UAIE,
    )


def intended_outcomes(
    probers: ProberCache,
    layout: Layout,
    predicted: Outcomes,
    lacking: Lacking,
    *,
    bulk: bool = True,
) -> Outcomes:
    """Return the predictions, with the intended outcomes of the accesses that lack a feature.

    Of an AMD processor all outcomes are those intended. Raises as `Prober.probe` does; the prober's
    prober has then another address space.
    """
    stated = (lacking != 0) & ~_REPLACED[lacking] | (layout.context.vendor is Vendor.AMD)
    if stated.any():
        some = layout.accesses.take(np.flatnonzero(stated))
        manuals = by_the_manuals(layout.memory(), layout.context, some)
        predicted = spread(predicted, stated, manuals)
    chosen = _REPLACED[lacking]
    if not chosen.any():
        return predicted
    accesses = layout.accesses.take(np.flatnonzero(chosen))
    linear, strange, barred = linear_of(layout.context, accesses)
    walks = ~strange & ~barred
    outcomes = Outcomes.empty(len(accesses))
    outcomes.kind[~walks] = Kind.GENERAL_PROTECTION
    prober = probers.prober(layout.memory(), plain(layout.context))
    asked = replace(accesses, va=linear).take(np.flatnonzero(walks))
    seen = spread(outcomes, walks, prober.probe(asked, bulk=bulk))
    return spread(predicted, chosen, seen)
