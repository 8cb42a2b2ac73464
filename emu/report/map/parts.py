"""A page put together of its parts: one file that loads nothing, and runs nothing but its own."""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

__all__ = ["joined_page"]


def joined_page(
    template: str,
    title: str,
    document: Mapping[str, Any],
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    columns: str = "",
) -> bytes:
    """Return a page in UTF-8: the same bytes for the same content.

    `template`, `styles` and `scripts` are names of files of this package, joined in their order.
    Its security policy lets nothing run but these. `columns` is a text that needs no escaping.
    """
    # In a script element, only what looks like its end has to be escaped.
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    style, script = ("\n".join(["", *map(_part, names)]) for names in (styles, scripts))
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    parts = {
        "POLICY": escape(policy),
        "TITLE": escape(title),
        "STYLE": style,
        "DOCUMENT": text,
        "COLUMNS": columns,
        "SCRIPT": script,
    }
    return re.sub(r"@([A-Z]+)@", lambda found: parts[found[1]], _part(template)).encode()


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
