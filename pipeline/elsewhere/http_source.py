"""A file of a web server, read by ranges through fsspec's session, which pools connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp
import fsspec
from fsspec.asyn import sync

from pipeline.elsewhere.address import without_secrets
from pipeline.elsewhere.source import FileState, TryAgainError, UnreadableError, changed, patiently

# What the first request asks for: where most formats keep their header.
_BEGINNING = 2**16
# Nothing for this long ends a request.
_SILENCE_S = 60.0
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_CUT = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


class HttpSource:
    """A file of a web server; see `pipeline.elsewhere.source.Source`.

    Args:
        address: as it stands in the sheet, for messages.
        url: with the values of the variables that it names.
    """

    def __init__(self, address: str, url: str) -> None:
        self.address, self._url = address, url
        self.requests = self.bytes_read = 0
        # A .netrc and the proxies of the environment count.
        self._fs = fsspec.filesystem("http", client_kwargs={"trust_env": True})
        headers, beginning = self._answer(0, _BEGINNING, None)
        self.state = self._stated(headers)
        self._beginning = beginning

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range; see `Source`."""
        stop = min(stop, self.state.size)
        if stop <= len(self._beginning):
            return self._beginning[start:stop]
        headers, found = self._answer(start, stop, self.state)
        now = self._stated(headers)
        if now != self.state:
            raise changed(self.address, self.state, now)
        return found

    def check_unchanged(self) -> None:
        """Ask for one byte; each answer tells the version. See `Source`."""
        headers, _ = self._answer(0, 1, self.state)
        now = self._stated(headers)
        if now != self.state:
            raise changed(self.address, self.state, now)

    def _answer(self, start: int, stop: int, state: FileState | None) -> tuple[Mapping[str, str], bytes]:
        def ask() -> tuple[int, str, Mapping[str, str], bytes]:
            found: tuple[int, str, Mapping[str, str], bytes] = sync(self._fs.loop, self._request, start, stop)
            return found

        status, reason, headers, data = patiently(ask, self.address)
        if status == HTTPStatus.PARTIAL_CONTENT:
            return headers, data
        expected = "a file that can be read"
        found = f"{status} {reason}"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            expected = "a file that may be read, with credentials from the environment"
        elif status == HTTPStatus.OK:
            expected, found = "a server that gives ranges of a file (206)", "one that answers with the whole file (200)"
        elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and state is not None:
            expected, found = f"the file as opened, {state}", f"{found}: it changed"
        elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            expected, found = "a file with bytes in it", f"{found}: an empty file?"
        raise UnreadableError(file=self.address, expected=expected, found=found)

    async def _request(self, start: int, stop: int) -> tuple[int, str, Mapping[str, str], bytes]:
        """Return status, its words, headers and the bytes of a range; of other answers no bytes.

        Raises:
            TryAgainError: for what may pass.
        """
        session = await self._fs.set_session()
        # Compressed on the way, ranges would be of something else.
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
        self.requests += 1
        try:
            url = self._fs.encode_url(self._url)
            async with session.get(url, headers=headers, timeout=timeout, read_bufsize=2**20) as answer:
                if answer.status in _BUSY:
                    raise TryAgainError(f"{answer.status} {answer.reason}")
                if answer.status != HTTPStatus.PARTIAL_CONTENT:
                    return answer.status, str(answer.reason), answer.headers, b""
                data = await answer.read()
                first, last, _ = self._span(answer.headers)
                if first != start or len(data) != last + 1 - first:
                    raise TryAgainError(f"{len(data)} bytes from byte {first} for the range {start} to {stop - 1}")
                self.bytes_read += len(data)
                return answer.status, str(answer.reason), answer.headers, data
        except _CUT as error:
            raise TryAgainError(without_secrets(f"{type(error).__name__}: {error}", self.address)) from None

    def _span(self, headers: Mapping[str, str]) -> tuple[int, int, int]:
        """Return first byte, last byte and the size of the whole file, as an answer states them."""
        found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if found is None:
            expected = "a server that says which bytes it gives (Content-Range)"
            raise UnreadableError(file=self.address, expected=expected, found=headers.get("Content-Range", "none"))
        return int(found[1]), int(found[2]), int(found[3])

    def _stated(self, headers: Mapping[str, str]) -> FileState:
        version = headers.get("ETag") or headers.get("Last-Modified", "")
        return FileState(self._span(headers)[2], version.strip().strip('"'))
