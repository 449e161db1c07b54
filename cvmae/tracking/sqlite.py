"""Addresses of SQLite databases: ``sqlite:///PATH``, in which some characters are written apart."""

import re
from urllib.parse import unquote

__all__ = ["sqlite_path", "sqlite_uri"]

ADDRESS = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]*)(\?.*)?")


def sqlite_path(uri: str) -> str:
    """Return the path of a database's file, '' where the address is not one of a file.

    Example:
        >>> sqlite_path("sqlite:////runs/100%25/mlflow.db?timeout=60")
        '/runs/100%/mlflow.db'
    """
    found = ADDRESS.fullmatch(uri)
    path = unquote(found[2]) if found else ""
    return "" if path.startswith((":memory:", "file:")) else path


def sqlite_uri(path: str, like: str = "sqlite:///") -> str:
    """Return the address of a file, with the dialect and options of another address.

    Example:
        >>> sqlite_uri("/runs/which?/mlflow.db", like="sqlite:///x.db?timeout=60")
        'sqlite:////runs/which%3F/mlflow.db?timeout=60'
    """
    found = ADDRESS.fullmatch(like)
    assert found is not None
    # Not all that could be: MLflow also reads the address as if nothing were written apart.
    apart = re.sub(r"%(?=[0-9A-Fa-f]{2})|\?", lambda char: f"%{ord(char[0]):02X}", path)
    return f"{found[1]}{apart}{found[3] or ''}"
