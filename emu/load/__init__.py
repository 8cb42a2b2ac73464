"""Guests brought to run: the built-in ones, and Linux kernels."""
