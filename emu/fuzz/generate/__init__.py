"""Layouts from a seed: legal, illegal and pathological, with what was meant noted beside."""

from emu.fuzz.generate.layouts import generate
from emu.fuzz.generate.places import RAM

__all__ = ["RAM", "generate"]
