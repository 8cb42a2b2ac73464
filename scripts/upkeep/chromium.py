"""Which Chromium shows pages for the tests and for pictures."""

import os
import shutil
from pathlib import Path

_FETCHED = Path(__file__).resolve().parents[2] / ".chromium" / "chromium"


def chromium() -> str | None:
    """Return the command that CROSSWALK_CHROMIUM names, else the fetched or the installed one."""
    fetched = str(_FETCHED) if _FETCHED.exists() else shutil.which("chromium")
    return os.environ.get("CROSSWALK_CHROMIUM") or fetched
