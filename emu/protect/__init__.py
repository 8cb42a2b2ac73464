"""Collective rights, enforced by nested paging."""
