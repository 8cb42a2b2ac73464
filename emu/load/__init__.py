"""Guests brought to run: the built-in ones, Linux kernels, and kernels of other formats."""
