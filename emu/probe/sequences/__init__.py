"""Sequences of steps, really made: stores, invalidations and accesses by guest code."""

from crosswalk.emu.probe.sequences.runner import Runner

__all__ = ["Runner"]
