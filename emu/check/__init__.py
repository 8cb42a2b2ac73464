"""The cross-check: what a walker predicts, compared with what the emulated CPU does."""

from emu.check.compare import Divergence, agreements
from emu.check.crosscheck import Verdict, check, compare_all
from emu.check.known import KNOWN, KnownDivergence
from emu.check.plan import DEFAULT_LIMIT, Place, Plan, make_plan

__all__ = [
    "DEFAULT_LIMIT",
    "KNOWN",
    "Divergence",
    "KnownDivergence",
    "Place",
    "Plan",
    "Verdict",
    "agreements",
    "check",
    "compare_all",
    "make_plan",
]
