"""The monitor: a small host that carries out commands, and runs a guest where it is told to."""
