"""Findings without a case, as of what Crosswalk itself fails to do with a layout or a finding."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from crosswalk.emu.findings.signature import Signature, failed_signature, without_numbers
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.workers.process import ProcessLost, is_out_of_memory

__all__ = ["Caseless", "attempted", "error_text"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Caseless:
    """A finding of which there is no case: its signature, and how often it was met."""

    signature: Signature
    count: int = 1


def attempted(
    due: str, work: Callable[[], Result], failed: list[Caseless], count: int = 1
) -> Result | None:
    """Return what `work` returns; None, and a finding added to `failed`, where it raises.

    `due` says what would have been right. `ProbeError` passes: it is about the emulator. So does
    what is no result of the work: `ProcessLost`, and that there is no memory.
    """
    try:
        return work()
    except (ProbeError, ProcessLost):
        raise
    except Exception as error:  # Whatever it is, the campaign goes on, and says so.
        if is_out_of_memory(error):
            raise
        failed.append(Caseless(failed_signature(due, without_numbers(error_text(error))), count))
        return None


def error_text(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
