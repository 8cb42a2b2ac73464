"""The testbed: runs the guest, makes real accesses, compares, reports; the command line."""
