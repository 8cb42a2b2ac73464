"""Campaigns: many layouts, by many processes, with the same result for the same seed."""

from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.run import Campaign, Progress

__all__ = ["Campaign", "Plan", "Progress"]
