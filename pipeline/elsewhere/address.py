"""Addresses of slides that lie elsewhere: told from paths, expanded from the environment, never printed with secrets.

An address may name environment variables (`https://host/a.svs?$SAS_TOKEN`). It is written, logged and recorded as it
stands in the sheet; the variables are filled in only where a file is opened. The Snakefile imports this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from pipeline.errors import StatedError

SCHEMES = ("https", "http", "s3", "gs", "zip")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
# Parts of a query's name that carry a permission: signatures of S3, Google and Azure, tokens, passwords.
_SECRET = re.compile(r"sig|token|credential|secret|password|passwd|accesskey|api_?key|auth", re.IGNORECASE)
# Of Azure's signed addresses; short names that mean nothing elsewhere.
_LEAST_SECRET_LETTERS = 4
_CHAIN = "::"
_WITHOUT_HOST = "zip"


def is_elsewhere(text: str) -> bool:
    """Return whether a cell of the sheet is an address and not a path."""
    return bool(_ADDRESS.match(text))


def is_zarr_address(text: str) -> bool:
    """Return whether an address names an OME-Zarr folder by its ending, which only a listing could tell otherwise."""
    first = text.partition(_CHAIN)[0]
    folders = [part for part in urlsplit(first).path.split("/") if part]
    return any(part.lower().endswith(".zarr") for part in folders)


def address_faults(text: str) -> Iterator[str]:
    """Yield what keeps an address from being used, without printing what may be secret."""
    for part in text.split(_CHAIN):
        found = _ADDRESS.match(part)
        if found is None:
            # What a zip lies in may be a path.
            if part == text or not part:
                yield f"no address: {without_query(part)!r}"
            continue
        scheme = found[1].lower()
        if scheme not in SCHEMES:
            yield f"an address of {', '.join(f'{x}://' for x in SCHEMES)}, not {scheme}://"
        split = urlsplit(part)
        if "@" in split.netloc and not _is_variable(split.netloc.rpartition("@")[0]):
            yield f"no user or password in {without_query(part)}: write $NAME and set NAME in the environment"
        if scheme == _WITHOUT_HOST and _CHAIN not in text:
            yield "a zip:// address as zip://FILE_WITHIN::PATH_OR_ADDRESS_OF_THE_ZIP"
        if is_zarr_address(part) and split.query:
            yield f"an address of a folder without a query: {without_query(part)}"
        for name, value in parse_qsl(split.query):
            if _SECRET.search(name) and len(value) >= _LEAST_SECRET_LETTERS and not _is_variable(value):
                yield (
                    f"no signature in the address ({name} in {without_query(part)}): write $NAME in place of what is "
                    "secret and set NAME in the environment"
                )
                break


def expanded(text: str) -> str:
    """Return the address with the values of the environment variables that it names.

    Raises:
        StatedError: if one is not set, or the address breaks a rule of `address_faults`.
    """
    faults = list(address_faults(text))
    if faults:
        raise StatedError(file=without_query(text), expected=faults[0], found="otherwise")

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            found = "no such variable"
            raise StatedError(file=text, expected=f"the environment variable {match[1]}, which it names", found=found)
        return os.environ[match[1]]

    return _VARIABLE.sub(value, text)


def without_secrets(message: str, text: str) -> str:
    """Return a library's message with the values of the variables that an address names put back to their names."""
    for name in _VARIABLE.findall(text):
        value = os.environ.get(name, "")
        if value:
            message = message.replace(value, f"${name}")
    return message


def without_query(text: str) -> str:
    """Return an address without user, password and query."""
    parts = []
    for part in text.split(_CHAIN):
        split = urlsplit(part)
        host = split.netloc.rpartition("@")[2]
        parts.append(split._replace(netloc=host, query="", fragment="").geturl() if split.scheme else part)
    return _CHAIN.join(parts)


def file_name(text: str) -> str:
    """Return the name of the file that an address leads to."""
    first = text.partition(_CHAIN)[0]
    return urlsplit(first).path.rstrip("/").rpartition("/")[2] or urlsplit(first).netloc


def _is_variable(text: str) -> bool:
    return bool(_VARIABLE.search(text))
