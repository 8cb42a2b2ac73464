"""Crosswalk checks x86-64 page-table walkers against emulated MMUs.

`crosswalk.walker` reads paging structures, `crosswalk.guest` describes guests, and
`crosswalk.emu` runs them, compares, and holds the command line. This package is only the
name that they share: their folders lie side by side at the project's root.
"""
