"""Reads the small texts of HTTP: URLs, ``Retry-After``, what a server says of an error."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from medeyes_monai.errors import ConfigError

__all__ = ["asked_wait", "no_constant", "own_words", "shown", "url_parts"]

_SHOWN = 200  # characters of a server's own words that are repeated in a message


def url_parts(url: str) -> tuple[str, bool, str, int | None, str]:
    """Return a URL as it is shown, whether it is secure, its host, port and path.

    Nothing of a URL that is refused is quoted but its scheme: it may hold a password.

    Raises:
        ConfigError: If it is not plain HTTP or HTTPS, or holds a user, a password or a query.

    Example:
        >>> url_parts("https://host:8443/expert/")
        ('https://host:8443/expert', True, 'host', 8443, '/expert')
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise ConfigError("a server's URL cannot be read; wanted http://host:port") from problem
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"a server's URL is http:// or https:// with a host, got scheme {parts.scheme[:20]!r}"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            "a server's URL holds no user, password, query or fragment; put a token into an environment "
            "variable and name it with token_env"
        )
    if not re.fullmatch(r"[!-~]*", url):
        raise ConfigError("a server's URL holds plain characters only, without spaces")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    prefix = parts.path.rstrip("/")
    plain = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{prefix}"
    return plain, parts.scheme == "https", parts.hostname, port, prefix


def own_words(data: bytes) -> str:
    """Return a server's explanation, shortened; nothing where there is none in one of the usual places.

    Example:
        >>> own_words(b'{"error": {"message": "busy"}}'), own_words(b'{"detail": "busy"}'), own_words(b"busy")
        (' (busy)', ' (busy)', '')
    """
    try:
        said = json.loads(data)
        error = said["error"] if "error" in said else said["detail"]
        return f" ({shown(str(error['message'] if isinstance(error, dict) else error))})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def shown(text: str) -> str:
    r"""Return a server's words as they may stand in a message: short, and without control characters.

    Example:
        >>> shown("a\nb")
        'a b'
    """
    return "".join(c if c.isprintable() else " " for c in text[:_SHOWN])


def asked_wait(header: str | None) -> float | None:
    """Read ``Retry-After``: seconds, or a date. None where it says nothing readable. Unit: seconds.

    Example:
        >>> asked_wait("7"), asked_wait("Thu, 01 Jan 1970 00:00:00 GMT"), asked_wait("soon")
        (7.0, 0.0, None)
    """
    if header is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", header.strip()):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def no_constant(name: str) -> float:
    """Refuse ``NaN`` and ``Infinity``, which Python reads and JSON does not have.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{name} is no JSON")
