"""Sequences: every kind of change, invalidation and access, and random ones."""
