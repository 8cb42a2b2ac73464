"""Commands and options that documents name are there."""

import re

import pytest

from crosswalk.emu.cli.parser import make_parser
from scripts.upkeep.transcripts import documents

_, PARSERS = make_parser()
NAMED = re.compile(r"(?:^|[\s`\"(])crosswalk ([a-z]+\b[^`\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def unknown(text):
    """What is named as a command or one of its options in code, and isn't one."""
    found = set()
    for line in text.splitlines():
        code = line.startswith(("    ", "$ ")) or "`" in line
        for match in NAMED.finditer(line) if code else ():
            words = match[1].split()
            command = max((" ".join(words[:2]), words[0]), key=PARSERS.__contains__)
            if command not in PARSERS:
                found.add(command)
                continue
            known = {
                option for action in PARSERS[command]._actions for option in action.option_strings
            }
            found |= {f"{command} {each}" for each in OPTION.findall(match[1]) if each not in known}
    return found


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_commands_and_options_in_documents_exist(path):
    assert set() == unknown(path.read_text(encoding="utf-8"))


def test_what_is_none_is_told():
    text = (
        "    crosswalk walk core --nothing --json\n"
        "words: `crosswalk wander` and `crosswalk fuzz --cases 4 --case 5`\n"
        "Words about crosswalk wander by.\n"
    )
    assert {"walk --nothing", "wander", "fuzz --case"} == unknown(text)
