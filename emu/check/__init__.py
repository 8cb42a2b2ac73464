"""The cross-check: what a walker predicts, compared with what the emulated CPU does."""

from emu.check.compare import Divergence, agreements
from emu.check.crosscheck import check, compare_all
from emu.check.known import KNOWN, KnownDivergence
from emu.check.plan import Plan, make_plan
from emu.check.survey import DEFAULT_LIMIT
from emu.check.targets import Place
from emu.check.verdict import Verdict

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
