"""Judges: machines, emulated or real, that say what an access comes to."""
