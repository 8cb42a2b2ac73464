"""Files that are packed the same way each time."""

import gzip


def gzipped(data):
    """The data as a gzip file without the time of its making, which gzip writes by default."""
    return gzip.compress(data, mtime=0)  # noqa: TID251 - The one place, which leaves the time out.
