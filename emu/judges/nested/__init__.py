"""Accesses under pairs of tables, put to real machines' virtualisation through the monitor."""
