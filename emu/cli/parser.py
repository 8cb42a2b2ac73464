"""The parser of the command line: help, completion and the reading of arguments come from it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from crosswalk.emu.cli.apart import clash
from crosswalk.emu.cli.commands import COMMANDS, GROUPS
from crosswalk.emu.cli.options import PATHS, Command, Group, Option, options_of

__all__ = ["Parser", "make_parser", "parse", "release"]

_DESCRIPTION = """\
Check x86-64 page-table walkers against an emulated MMU.

SOURCE is a case file, an ELF core (as QEMU's dump-guest-memory writes it), a raw image of
physical memory, or the built-in guest, booted by the command: guest:4level or guest:5level.
docs/sources.md lists what is read, and what converts other files."""

_EPILOG = """\
exit status: 0 agreement; 1 a divergence, a difference, or a violated policy or expectation; 2 bad
usage, bad input, or nothing found where not everything could be looked at; 130 interrupted; 141 the
reader of the output left.
Answers go to standard output, with --json for machines; progress and remarks to standard error."""


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line on standard error, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and this message."""
        if not message.isprintable():
            # Not at the top: it imports numpy.
            from crosswalk.walker.formats.located_errors import printable  # noqa: PLC0415

            message = printable(message)
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def print_help(self, file: Any = None) -> None:
        """Print the help; unlike argparse, with an error where that fails."""
        print(self.format_help(), end="", file=file)


class _Version(argparse.Action):
    """Print the version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print it and end the program."""
        print(release())
        parser.exit()


def release() -> str:
    """Return the name and version of the program."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # Imports much.

    try:
        return f"crosswalk {version('crosswalk-x86')}"
    except PackageNotFoundError:
        return "crosswalk, not installed"


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command line, and those of its commands by name."""
    parser = Parser(
        prog="crosswalk",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    groups = {"": parser.add_subparsers(metavar="COMMAND", required=True)}
    made: dict[str, Parser] = {}
    for command in COMMANDS.values():
        first, _, name = command.name.rpartition(" ")
        if first not in groups:
            about = GROUPS[first]
            made[first] = groups[""].add_parser(first, help=about, description=f"{about}.")
            groups[first] = made[first].add_subparsers(metavar="COMMAND", required=True)
        made[command.name] = groups[first].add_parser(
            name,
            help=command.help,
            description=command.description,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made[command.name].set_defaults(command_name=command.name)
        for each in command.options:
            if isinstance(each, Group):
                group = made[command.name].add_argument_group(each.title)
                for inner in each.options:
                    _add(group, inner)
            else:
                _add(made[command.name], each)
    return parser, made


def _add(parser: argparse._ActionsContainer, each: Option) -> None:
    # What needs another option has its default set later: first it is asked whether it was given.
    settings = {name: value for name, value in each.settings.items() if name != "default"}
    parser.add_argument(*each.names, **(settings if each.needs else each.settings))


_HINTS = {("run", "--symbols"): "a guest's symbols are given by --system-map FILE"}
"""What is said of an option that a command doesn't have, and others have for the like."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options given; ends the program for --help, --version and bad usage.

    `given` are the arguments with those that pyproject.toml adds to them.
    """
    parser, parsers = make_parser()
    given = list(arguments)
    if given[:1] == ["fuzz"]:
        given[1:1] = _configured(COMMANDS["fuzz"])
    options, unknown = parser.parse_known_args(given)
    command = COMMANDS[options.command_name]
    if unknown:
        # argparse would report them as the program's, whose help doesn't list the command's own.
        hints = [_HINTS[command.name, each] for each in unknown if (command.name, each) in _HINTS]
        text = "; ".join([f"unrecognized arguments: {' '.join(unknown)}", *hints])
        parsers[command.name].error(text)
    chosen = {each.dest: each for each in options_of(command)}
    for name, each in chosen.items():
        value = getattr(options, name)
        if value is None:
            setattr(options, name, each.default)
        elif value is not False and each.needs and _lacks(options, each):
            needed = [chosen[other] for other in each.needs]
            labels = [it.settings["metavar"] if it.positional else it.names[0] for it in needed]
            parsers[command.name].error(f"{each.names[0]} needs {' or '.join(labels)}")
    twice = clash(command, options)
    if twice is not None:
        parsers[command.name].error(twice)
    options.given, options.run = given, command.run
    return options


def _lacks(options: argparse.Namespace, each: Option) -> bool:
    """Return whether none of the options is given of which one needs some."""
    return all(getattr(options, name) is None for name in each.needs)


def _configured(command: Command) -> list[str]:
    """Return the arguments that `[tool.crosswalk.NAME]` has for a command."""
    # Not at the top: they import numpy.
    from crosswalk.emu.cli.output import command_line, remark  # noqa: PLC0415
    from crosswalk.emu.configuration import read_table  # noqa: PLC0415
    from crosswalk.walker.errors import BadInput  # noqa: PLC0415

    path, table = read_table(command.name, Path())
    by_key = {each.names[-1].lstrip("-"): each for each in options_of(command)}
    words = []
    for key, value in table.items():
        each = by_key.get(key)
        if each is None:
            raise BadInput(f"{path}: [tool.crosswalk.{command.name}]: no option {key!r}")
        wanted, given = _given(each, value, Path() if path is None else path.parent)
        if given is None:
            raise BadInput(f"{path}: [tool.crosswalk.{command.name}]: {key} is {wanted}")
        words += given
    if words:
        remark(f"options of pyproject.toml: {command_line(words)}")
    return words


def _given(each: Option, value: Any, folder: Path) -> tuple[str, list[str] | None]:
    """Return what a value has to be, in words, and the arguments for it; None for another kind.

    Files and walkers in it are meant from `folder`.
    """
    name, action = each.names[-1], each.settings.get("action")
    if action == "store_true":
        given = [name] if value is True else [] if value is False else None
        return "true or false", given
    if isinstance(value, bool) and "const" in each.settings:
        return "", [name] if value else []
    several = each.commas or action == "append"
    # What may be repeated are texts: patterns, and names of files.
    kinds: tuple[type, ...] = (str,) if action == "append" else (int, float, str)
    wanted = "a text" if action == "append" else "a number or a text"
    wanted += ", or a list of them" if several else ""
    texts = value if isinstance(value, list) and several else [value]
    if any(isinstance(text, bool) or not isinstance(text, kinds) for text in texts):
        return wanted, None
    words = [_placed(each, str(text), folder) for text in texts]
    if action == "append":
        return wanted, [f"{name}={word}" for word in words]
    return wanted, [f"{name}={','.join(words)}"]


def _placed(each: Option, text: str, folder: Path) -> str:
    """Return a value that is meant from `folder` as it is from the current folder."""
    from crosswalk.emu.configuration import judge_from, path_from, walker_from  # noqa: PLC0415  # As above.

    if each.dest == "walker":
        return walker_from(folder, text)
    if each.dest == "judge":
        return judge_from(folder, text)
    # SOURCE may be the built-in guest, too.
    file = each.dest == "source" and (folder / text).exists()
    return path_from(folder, text) if file or each.settings.get("type") in PATHS else text
