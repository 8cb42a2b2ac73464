"""Random pairs of layouts, a guest's and its host's, and accesses through both."""

from crosswalk.emu.fuzz.nested.pair import Pair, make_pair

__all__ = ["Pair", "make_pair"]
