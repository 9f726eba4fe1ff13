"""Texts in Markdown: a name or a message from a run's folder is shown as it is, and is never markup."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

# What would begin a tag, an entity, a link or a picture, code, or another cell.
_ESCAPES = {"<": "&lt;", "&": "&amp;", "`": "\\`", "|": "\\|", "\\": "\\\\"}


def escaped(value: Any) -> str:
    """A value as one line of Markdown; what is `Markup` already stays."""
    if isinstance(value, Markup):
        return value
    words = "".join(character if character.isprintable() else " " for character in str(value))
    return "".join(_ESCAPES.get(character, character) for character in words).replace("](", "]\\(")


def block(text: str) -> Markup:
    """A text for a block of code, where nothing is escaped: it cannot end the block."""
    return Markup("".join(c if c.isprintable() else " " for c in text).replace("```", "` ` `"))
