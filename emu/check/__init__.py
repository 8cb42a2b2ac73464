"""The cross-check: what a walker predicts, compared with what the emulated CPU does."""

from crosswalk.emu.check.compare import Divergence, agreements
from crosswalk.emu.check.crosscheck import check, compare_all
from crosswalk.emu.check.departures import DEPARTURES, Departure, differs
from crosswalk.emu.check.selection import Place
from crosswalk.emu.check.survey import DEFAULT_LIMIT, Plan, make_plan
from crosswalk.emu.check.verdict import Verdict

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
