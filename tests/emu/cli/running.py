"""The command line, run in this process."""

import functools
import json
from pathlib import Path

import jsonschema

from crosswalk.emu.cli import main
from crosswalk.walker.formats import dump_case, files


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
    # A process of its own would have mapped none yet. Those of other tests may have become shorter,
    # which an end of the emulator's process would be explained by.
    files._names.clear()
    try:
        status = main([str(each) for each in arguments])
    except SystemExit as error:
        status = error.code
    out, err = capfd.readouterr()
    return Ran(status, out, err)


def refused(ran):
    """The one line of an error that ended a command with status 2."""
    assert (2, "") == (ran.status, ran.out)
    assert "Traceback" not in ran.err
    line = ran.err.splitlines()[-1]
    assert line.startswith("crosswalk")
    assert ": error: " in line
    assert 1 == ran.err.count("error:")
    return line


def written(path, case):
    """Write a case file; its path."""
    path.write_bytes(dump_case(case))
    return path


SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schemas"


@functools.cache
def _validator(name):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def fits(name, document):
    """Whether a document is one of a format, by its schema."""
    return _validator(name).is_valid(document)
