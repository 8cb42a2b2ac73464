"""Temporary files of processes that may be killed before they remove them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["temporary_files_together"]


@contextmanager
def temporary_files_together() -> Iterator[None]:
    """Have temporary files in a folder that is removed behind this, with what is left there.

    Those of this process, and of the children that it forks meanwhile, however they end.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="crosswalk-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
