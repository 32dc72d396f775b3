"""The door to files elsewhere: chooses how one is read by its address."""

from __future__ import annotations

from pipeline.elsewhere.address import expanded
from pipeline.elsewhere.source import Source, with_package


def open_source(address: str) -> Source:
    """Open a file by its address, as it stands in the sheet.

    Raises:
        StatedError: if there is none, it may not be read, its server gives no ranges, or a package is missing.
    """
    url = expanded(address)
    if url.lower().startswith(("http://", "https://")):
        with_package(address, "aiohttp")
        from pipeline.elsewhere.http_source import HttpSource

        return HttpSource(address, url)
    from pipeline.elsewhere.store_source import StoreSource

    return StoreSource(address, url)
