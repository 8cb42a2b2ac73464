"""Layouts from a seed: well-formed, malformed and pathological, with intended outcomes."""

from crosswalk.emu.fuzz.generate.build_tables import RAM
from crosswalk.emu.fuzz.generate.layouts import generate
from crosswalk.emu.fuzz.generate.mutate import Base, base_of, mutate

__all__ = ["RAM", "Base", "base_of", "generate", "mutate"]
