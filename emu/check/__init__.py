"""The cross-check: what a walker predicts, compared with what the emulated CPU does."""

from emu.check.compare import Divergence, agreements
from emu.check.crosscheck import check, compare_all
from emu.check.departures import DEPARTURES, Departure, differs
from emu.check.plan import Plan, make_plan
from emu.check.survey import DEFAULT_LIMIT
from emu.check.targets import Place
from emu.check.verdict import Verdict

__all__ = [
    "DEFAULT_LIMIT",
    "DEPARTURES",
    "Departure",
    "Divergence",
    "Place",
    "Plan",
    "Verdict",
    "agreements",
    "check",
    "compare_all",
    "differs",
    "make_plan",
]
