"""What a person can do about a value for which no tensor can stand."""

from __future__ import annotations


def remedy(shown: str, error: BaseException) -> str:
    """Why this read keeps members apart, and the way out, from what was raised where a tensor stood in its place."""
    text = str(error).strip().splitlines()
    return f"{shown} cannot be a tensor where it is used ({type(error).__name__}: {text[0][:100] if text else ''})."
