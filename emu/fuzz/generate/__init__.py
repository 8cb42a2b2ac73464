"""Layouts from a seed: legal, illegal and pathological, with what was meant noted beside."""

from crosswalk.emu.fuzz.generate.frame_allocator import RAM
from crosswalk.emu.fuzz.generate.layouts import generate
from crosswalk.emu.fuzz.generate.mutate import Base, base_of, mutate

__all__ = ["RAM", "Base", "base_of", "generate", "mutate"]
