"""Transcripts in documents: run, compared with what is shown, and written anew.

A transcript is a fenced block of the language `console`. Its lines that begin with `$ ` are for
bash; what they print, on either stream, follows. A line `…` stands for any number of lines that
aren't shown. The commands of a document run in one scratch folder, from which `docs` and `tests`
are found, so that a command can use what those before it have made. Where a comment

    <!-- transcript: slow -->
    <!-- transcript: not run, REASON -->

precedes a block, it is run only when that is asked for, or never.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = [
    "SLOW",
    "Transcript",
    "differences",
    "documents",
    "shown_anew",
    "transcripts_of",
    "unrun",
]

ROOT = Path(__file__).resolve().parents[2]

SLOW = "slow"
"""The mark of a transcript that takes long."""

_NOT_RUN = "not run, "
_GAP = "…"
_MARK = re.compile(r"<!-- transcript: (.+) -->")
_FOUND = ("docs", "tests")  # What commands find in the folder that they run in.
_MACHINES_OWN = (  # What differs from run to run and from machine to machine.
    (re.compile(r"\b[\d,]+(\.\d+)? s\b"), "0 s"),
    (re.compile(r"\([\d,]+ a second\)"), "(0 a second)"),
    (re.compile(r"peak memory [\d,]+ MiB"), "peak memory 0 MiB"),
)
_ALIKE = 0.6  # From here on a printed line is a shown one that has changed.


@dataclass(frozen=True, slots=True)
class Transcript:
    """A block: the index of its first line in the document, its mark, its commands.

    `parts` are the commands, each with the lines that are shown of its output.
    """

    start: int
    mark: str | None
    parts: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def end(self) -> int:
        """The index of the line behind its last one."""
        return self.start + sum(1 + len(shown) for _, shown in self.parts)


def documents() -> list[Path]:
    """Return the documents that may have transcripts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def transcripts_of(text: str) -> list[Transcript]:
    """Return the transcripts of a document.

    `ValueError` for one that doesn't begin with a command, a mark that is none, and a command in a
    block of another language.
    """
    found = []
    lines = text.splitlines()
    fence: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if fence is None:
            fence = number
            continue
        body = lines[fence + 1 : number]
        if lines[fence] == "```console":
            found.append(_transcript(fence + 1, body, _mark_above(lines, fence)))
        elif any(each.startswith("$ ") for each in body):
            raise ValueError(f"line {fence + 1}: a command in a block that isn't ```console")
        fence = None
    return found


def _mark_above(lines: Sequence[str], fence: int) -> str | None:
    match = _MARK.fullmatch(lines[fence - 1].strip()) if fence else None
    mark = match[1] if match else None
    if mark not in (None, SLOW) and not (mark.startswith(_NOT_RUN) and mark != _NOT_RUN):
        raise ValueError(f"line {fence}: no mark of a transcript: {mark}")
    return mark


def _transcript(start: int, body: Sequence[str], mark: str | None) -> Transcript:
    parts: list[tuple[str, list[str]]] = []
    for line in body:
        if line.startswith("$ "):
            parts.append((line[2:], []))
        elif parts:
            parts[-1][1].append(line)
        else:
            raise ValueError(f"line {start + 1}: a transcript that doesn't begin with a command")
    return Transcript(start, mark, tuple((command, tuple(shown)) for command, shown in parts))


def unrun(transcript: Transcript) -> str | None:
    """Return why a transcript is never run; None for one that is."""
    mark = transcript.mark or ""
    return mark.removeprefix(_NOT_RUN) if mark.startswith(_NOT_RUN) else None


def run_all(transcripts: Sequence[Transcript]) -> Iterator[tuple[Transcript, list[list[str]]]]:
    """Run transcripts of one document; yield each with the lines that its commands print."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST"))
    }
    # Both streams in the order in which they are written; no colours, help as wide as a page.
    environment |= {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "100"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with TemporaryDirectory() as folder:
        for name in _FOUND:
            (Path(folder) / name).symlink_to(ROOT / name)
        for transcript in transcripts:
            printed = []
            for command, _ in transcript.parts:
                done = subprocess.run(
                    ["bash", "-c", command],  # noqa: S607  # As a reader types it.
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                printed.append(done.stdout.splitlines())
            yield transcript, printed


def differences(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Return the lines that are shown but not printed there, or what else is wrong with them."""
    lines = [_comparable(line) for line in printed]
    chunks: list[list[str]] = [[]]
    for line in shown:
        if line.strip() == _GAP:
            chunks.append([])
        else:
            chunks[-1].append(_comparable(line))
    at = 0
    for number, chunk in enumerate(chunks):
        # The first one begins the output, the last one ends it.
        last = len(lines) - len(chunk)
        first = last if number == len(chunks) - 1 else at
        stop = 0 if number == 0 else last
        places = [
            place
            for place in range(max(first, at), stop + 1)
            if lines[place:][: len(chunk)] == chunk
        ]
        if not places:
            missing = [line for line in chunk if line not in lines[at:]]
            return missing or [
                f"{' / '.join(chunk[:1])} (in another place, or with more around it)"
            ]
        at = places[0] + len(chunk)
    return []


def _comparable(line: str) -> str:
    for pattern, replacement in _MACHINES_OWN:
        line = pattern.sub(replacement, line)
    return line.rstrip()


def shown_anew(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Return what to show of what is printed: all, or lines like those shown, with gaps marked.

    Lines that differ in nothing but what is the machine's own stay as they are.
    """
    if not differences(shown, printed):
        return list(shown)
    kept = [line for line in shown if line.strip() != _GAP]
    known = {_comparable(line): line for line in kept}
    printed = [known.get(_comparable(line), line) for line in printed]
    if len(kept) == len(shown):
        return printed
    lines: list[str] = []
    at = 0
    for line in kept:
        best = max(
            range(at, len(printed)), key=lambda place: _alike(line, printed[place]), default=at
        )
        if best >= len(printed) or _alike(line, printed[best]) < _ALIKE:
            continue
        if best > at:
            lines.append(_GAP)
        lines.append(printed[best])
        at = best + 1
    return [*lines, _GAP] if at < len(printed) else lines


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, _comparable(one), _comparable(other), autojunk=False).ratio()


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or write; status 1 where a document shows what isn't printed."""
    parser = argparse.ArgumentParser(
        prog="scripts/transcripts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="show what is printed")
    parser.add_argument("--slow", action="store_true", help="run those that take long, too")
    parser.add_argument("documents", nargs="*", type=Path, help="only these (all)")
    options = parser.parse_args(arguments)
    status = 0
    for path in options.documents or documents():
        text = path.read_text(encoding="utf-8")
        found = transcripts_of(text)
        chosen = [
            each for each in found if unrun(each) is None and (options.slow or each.mark != SLOW)
        ]
        for each in found:
            if reason := unrun(each):
                print(f"{path.name}:{each.start + 1}: not run: {reason}")
        lines = text.splitlines()
        grown = 0
        for transcript, printed in run_all(chosen):
            body: list[str] = []
            for (command, shown), out in zip(transcript.parts, printed, strict=True):
                body += [f"$ {command}", *shown_anew(shown, out)]
                for line in () if options.write else differences(shown, out):
                    print(f"{path.name}:{transcript.start + 1}: not printed: {line}")
                    status = 1
            lines[transcript.start + grown : transcript.end + grown] = body
            grown += len(body) - (transcript.end - transcript.start)
        if options.write:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if found:
            print(f"{path.name}: {len(chosen)} of {len(found)} transcripts run")
    return status


if __name__ == "__main__":
    sys.exit(main())
