"""The other side of the monitor: commands for it, its answers, and guests that it runs."""
