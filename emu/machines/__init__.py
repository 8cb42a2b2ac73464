"""Machines: what boots an image, in a process of its own."""
