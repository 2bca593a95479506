"""`seen` and `shortened`: text of users as pictures and pages show it."""

from __future__ import annotations

import re

# Control characters, marks that change the direction of text, characters without width that no word
# needs, and half surrogates.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff]"
)


def seen(text: str) -> str:
    """Replace each character that cannot be seen by a mark, such as ⟨U+200F⟩."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def shortened(text: str, most: int = 120) -> str:
    """Return a text, or its beginning and an ellipsis, so many letters in all at most."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
