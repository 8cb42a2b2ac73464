"""A worker that is an interpreter of its own: python -m crosswalk.emu.workers PARENT."""

import os
import signal
import sys

from crosswalk.emu.workers.pool import serve
from crosswalk.emu.workers.process import die_with_parent

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(int(sys.argv[1]))
    ends = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # What is printed is no answer.
    serve(None, *ends)
