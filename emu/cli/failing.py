"""A run of a guest that fails or is interrupted: its last state, and with --json one document."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.report.failure_json import EndedJson, FailureJson, ended_document
from crosswalk.emu.report.protect_json import ProtectEndedJson, ProtectFailedJson
from crosswalk.emu.report.run_json import UnfollowedJson
from crosswalk.walker.errors import CrosswalkError

__all__ = ["protect_failures", "reported_failures"]


@contextmanager
def reported_failures(
    options: argparse.Namespace, document: Callable[[FailureJson | EndedJson], dict[str, Any]]
) -> Iterator[None]:
    """Report what ends the run of a guest early, and raise it on.

    That is an error or an interrupt: the guest's last state, where there is one, goes to standard
    error, and with --json a document of it to standard output.
    """
    try:
        yield
    except (CrosswalkError, KeyboardInterrupt) as error:
        if isinstance(error, GuestFailure):
            for line in error.lines:
                remark(line)
        if options.json:
            emit(document(ended_document(error)))
        raise


@contextmanager
def protect_failures(options: argparse.Namespace) -> Iterator[None]:
    """Report what ends the runs of `protect` early, and raise it on, as `reported_failures`."""

    def document(failure: FailureJson | EndedJson) -> dict[str, Any]:
        about: dict[str, Any] = {
            **dict.fromkeys(("probes", "agreements", "divergences", "known_divergences"), 0),
            **dict.fromkeys(("mappings", "seconds"), 0),
            "predicted_only": {},
            "not_asked": {},
            "unfollowed": UnfollowedJson(0, 0),
            "assumed": [],
            "failure": failure,
            "verdict": failure.message,
            "reproduce": command_text(options),
        }
        kept = isinstance(failure, FailureJson)
        kind = ProtectFailedJson if kept else ProtectEndedJson
        record: dict[str, Any] = msgspec.to_builtins(kind(**about))
        return record

    with reported_failures(options, document):
        yield
