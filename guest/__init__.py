"""The guests: their assembly, their memory map, and the rights each mapping is intended to give."""
