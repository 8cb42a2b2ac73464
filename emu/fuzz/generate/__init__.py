"""Layouts from a seed: legal, illegal and pathological, with what was meant noted beside."""

from emu.fuzz.generate.layouts import generate
from emu.fuzz.generate.mutate import Base, base_of, mutate
from emu.fuzz.generate.places import RAM

__all__ = ["RAM", "Base", "base_of", "generate", "mutate"]
