"""The command line, run in this process."""

import json

from crosswalk.emu.cli import main


class Ran:
    """What a command came to: its exit status and what it said on either stream."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def document(self):
        return json.loads(self.out)

    @property
    def records(self):
        return [json.loads(line) for line in self.out.splitlines()]


def crosswalk(capfd, *arguments):
    """Run one command; argparse's own exits count as statuses."""
    capfd.readouterr()
    try:
        status = main([str(each) for each in arguments])
    except SystemExit as error:
        status = error.code
    out, err = capfd.readouterr()
    return Ran(status, out, err)
