"""Amazon's S3 and stores that speak its protocol: obstore's S3, and parts that any process can send.

An upload's parts come by requests to different replicas. S3 has just that (multipart uploads), obstore's interface does
not, so these few calls are made here, signed as AWS's Signature Version 4 wants it. Path style, as stores other than
Amazon's need.
"""

import asyncio
import hashlib
import hmac
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape

import aiohttp
from yarl import URL

from scow.registry.bucket import ObstoreBucket
from scow.registry.errors import StorageUnavailable
from scow.registry.objects import ObjectMissing
from scow.registry.spools import Spool

TRIES: Final = 5
TIMEOUT_S: Final = 60.0
"""So long a store may take no byte of a request, and after the last one give no answer."""
RETRY_S: Final = 120.0
"""After so long nothing is tried again: a client waits, and what stands before it gives up long before that."""
CONNECT_TIMEOUT_S: Final = 10.0
SENDING: Final = 16
"""Objects and parts that are sent at once: each takes memory for what is read of it and for what the socket holds."""
_GONE: Final = ("NoSuchUpload", "NoSuchKey")
_PAYLOAD: Final = "UNSIGNED-PAYLOAD"


class Keys:
    """What requests are signed with."""

    def __init__(self, access_key: str, secret_key: str, token: str = "") -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.token = token


class S3Bucket(ObstoreBucket):
    """A bucket of S3 at an endpoint, with keys."""

    def __init__(
        self, store: Any, prefix: str, endpoint: str, bucket: str, region: str, keys: Keys, signer: Any = None
    ) -> None:
        super().__init__(store, prefix, signer)
        self._endpoint = endpoint.rstrip("/")
        self._bucket = bucket
        self._region = region
        self._keys = keys
        self._session: aiohttp.ClientSession | None = None
        self._sending = asyncio.Semaphore(SENDING)

    async def put(self, key: str, data: Spool) -> None:
        await self._request("PUT", key, {}, data)

    async def begin_parts(self, key: str) -> str:
        _, body, _ = await self._request("POST", key, {"uploads": ""})
        return _element(body, "UploadId")

    async def put_part(self, key: str, parts_id: str, number: int, data: Spool) -> str:
        _, _, headers = await self._request("PUT", key, {"partNumber": str(number), "uploadId": parts_id}, data)
        return headers.get("ETag", "")

    async def join_parts(self, key: str, parts_id: str, parts: Sequence[tuple[int, str]]) -> None:
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(mark)}</ETag></Part>" for number, mark in parts
        )
        document = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        await self._request("POST", key, {"uploadId": parts_id}, document)

    async def end_parts(self, key: str, parts_id: str) -> None:
        try:
            await self._request("DELETE", key, {"uploadId": parts_id})
        except ObjectMissing:
            return

    async def begun_parts(self) -> list[tuple[str, str]]:
        _, body, _ = await self._request("GET", None, {"prefix": self._prefix, "uploads": ""})
        return [
            (_element(upload, "Key").removeprefix(self._prefix), _element(upload, "UploadId"))
            for upload in re.findall(r"<Upload>.*?</Upload>", body, re.DOTALL)
        ]

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _request(
        self, method: str, key: str | None, query: Mapping[str, str], data: bytes | Spool = b""
    ) -> tuple[int, str, Mapping[str, str]]:
        """Send a request about an object, or the bucket, until it is answered.

        Raises ObjectMissing and StorageUnavailable.
        """
        why, begun = "", time.monotonic()
        for attempt in range(TRIES):
            if attempt and time.monotonic() - begun >= RETRY_S:
                break
            if attempt:
                await asyncio.sleep(random.uniform(0.05, 0.1 * 2**attempt))
            try:
                async with self._sending if isinstance(data, Spool) else nullcontext():
                    status, text, headers = await self._send(method, key, query, data)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                why = repr(error)
                continue
            # The answer to the joining of parts may begin with 200 long before it fails.
            code = _element(text, "Code") if status >= 300 or "<Error>" in text else ""
            if status == 404 or code in _GONE:
                raise ObjectMissing(f"{method} {key}: {code or status}")
            if status < 300 and not code:
                return status, text, headers
            why = f"{status} {text[:500]}"
            if status < 500 and status != 429 and code not in ("InternalError", "SlowDown", "RequestTimeout"):
                break
        raise StorageUnavailable(f"{method} {key}: {why}")

    async def _send(
        self, method: str, key: str | None, query: Mapping[str, str], data: bytes | Spool
    ) -> tuple[int, str, Mapping[str, str]]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        path = quote(f"/{self._bucket}" + (f"/{self._prefix}{key}" if key is not None else ""), safe="/-_.~")
        line = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items())
        )
        headers = sign(method, urlsplit(self._endpoint).netloc, path, line, self._region, self._keys, time.time())
        url = URL(f"{self._endpoint}{path}?{line}", encoded=True)
        async with asyncio.timeout(TIMEOUT_S) as limit:
            body: AsyncIterator[bytes] | bytes | None = data or None if isinstance(data, bytes) else None
            if isinstance(data, Spool):
                headers["Content-Length"] = str(data.size)
                body = _paced(data, limit) if data.size else None
            if body is not None:
                headers["Content-Type"] = "application/octet-stream"
            async with self._session.request(method, url, data=body, headers=headers) as answer:
                return answer.status, await answer.text(), answer.headers


async def _paced(data: Spool, limit: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
    """The bytes, and more time with each piece that the store takes."""
    async for chunk in data.chunks():
        yield chunk
        if limit.when() is not None and not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time() + TIMEOUT_S)


def sign(method: str, host: str, path: str, query: str, region: str, keys: Keys, now: float) -> dict[str, str]:
    """The headers of a signed request. Its path and query are encoded already, the query in order."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    headers = {"host": host, "x-amz-content-sha256": _PAYLOAD, "x-amz-date": moment}
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{_PAYLOAD}"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{keys.secret_key}".encode()
    for part in (moment[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _element(document: str, name: str) -> str:
    """The text of an element of a small answer."""
    found = re.search(rf"<{name}>([^<]*)</{name}>", document)
    return found[1].replace("&quot;", '"').replace("&amp;", "&") if found else ""
