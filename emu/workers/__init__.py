"""Child processes: everything that may crash, hang, or be killed by others."""
