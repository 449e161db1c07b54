"""Texts as parts of names that every file system and store of metrics takes."""

import hashlib
import re

__all__ = ["marked", "safe_name"]


LONGEST = 100  # characters: file systems take 255 bytes, and more may be added


def marked(safe: str, text: str) -> str:
    """Return a name that stands for a text, with a short hash where it is not the text itself.

    Example:
        >>> marked("c.json", "/a b/c.json"), marked("cv", "cv")
        ('c.json-37e730', 'cv')
    """
    if safe == text:
        return safe
    return f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"  # two texts may become one


def safe_name(text: str, *, plus: bool = True) -> str:
    """Return a text without what names may not hold, such that two texts never share a name.

    Args:
        text: Any.
        plus: Whether ``+`` stays.

    Example:
        >>> safe_name("cv-0.5"), safe_name("cv 0.5")
        ('cv-0.5', 'cv-0.5-cc4d81')
    """
    # What begins with a dot is hidden, or is the folder itself or the one above.
    safe = re.sub(r"[^\w.+-]+" if plus else r"[^\w.-]+", "-", text)[:LONGEST]
    return marked(re.sub(r"^\.+|^$", "-", safe), text)
