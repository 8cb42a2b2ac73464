"""Programs of a few lines of shell, that stand in for others."""

__all__ = ["program"]


def program(path, script):
    """Write a shell script to a path, and return the path."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
