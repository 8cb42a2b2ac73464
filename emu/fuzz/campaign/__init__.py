"""Campaigns: many layouts, by many processes, with the same result for the same seed."""

from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.run import Campaign, Told

__all__ = ["Campaign", "Plan", "Told"]
