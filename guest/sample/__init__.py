"""The sample kernel: a small kernel in multiboot form, as somebody's hobby kernel might be.

It maps its own sections by pages of 4 KiB, each with the rights that it needs, and can be built
with a bug in these mappings.
"""

from crosswalk.guest.sample.image import EXIT_PORT, Bug, sample_kernel

__all__ = ["EXIT_PORT", "Bug", "sample_kernel"]
