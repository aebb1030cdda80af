"""A small object store that speaks as much of S3 as a registry uses, in memory and in process.

Signatures have to be there and aren't checked: tests with a real store do that.
"""

import asyncio
import hashlib
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

LEAST_PART = 5 << 20


@dataclass
class Parts:
    """A multipart upload that goes on."""

    key: str
    parts: dict[int, bytes] = field(default_factory=dict)


class S3Server:
    """Buckets are made by being used. `objects` are by `bucket/key`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, Parts] = {}
        self.failing = 0  # so many requests from now on are answered with 503
        self.stalling: asyncio.Event | None = None  # bytes of objects are not taken before it is set
        self.counts: Counter[str] = Counter()
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port of the loopback."""
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def aclose(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        key, query = unquote(request.path).lstrip("/"), request.rel_url.query
        if self.stalling is not None and request.method == "PUT":
            await self.stalling.wait()
        body = await request.content.read()
        kinds = sorted(query.keys() & {"uploads", "uploadId", "delete"})
        self.counts[" ".join([request.method, *kinds])] += 1
        if self.failing:
            self.failing -= 1
            return _error(503, "SlowDown")
        assert "Authorization" in request.headers or "X-Amz-Signature" in query, "the request is not signed"
        match request.method:
            case "POST" if "uploads" in query:
                upload_id = uuid.uuid4().hex
                self.uploads[upload_id] = Parts(key)
                return _document(f"<Result><UploadId>{upload_id}</UploadId></Result>")
            case "PUT" if "uploadId" in query:
                if query["uploadId"] not in self.uploads:
                    return _error(404, "NoSuchUpload")
                self.uploads[query["uploadId"]].parts[int(query["partNumber"])] = body
                return web.Response(headers={"ETag": _etag(body)})
            case "POST" if "uploadId" in query:
                return self._join(query["uploadId"], body.decode())
            case "DELETE" if "uploadId" in query:
                return (
                    web.Response(status=204)
                    if self.uploads.pop(query["uploadId"], None)
                    else _error(404, "NoSuchUpload")
                )
            case "POST" if "delete" in query:
                names = re.findall(r"<Key>([^<]*)</Key>", body.decode())
                for name in names:
                    self.objects.pop(f"{key.rstrip('/')}/{name}", None)
                told = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
                return _document(f"<DeleteResult>{told}</DeleteResult>")
            case "PUT":
                source = request.headers.get("x-amz-copy-source")
                if source is not None:
                    source = unquote(source).lstrip("/")
                    if source not in self.objects:
                        return _error(404, "NoSuchKey")
                    body = self.objects[source]
                self.objects[key] = body
                if source is not None:
                    return _document(f"<CopyObjectResult><ETag>{_etag(body)}</ETag></CopyObjectResult>")
                return web.Response(headers={"ETag": _etag(body)})
            case "DELETE":
                self.objects.pop(key, None)
                return web.Response(status=204)
            case "GET" if "uploads" in query:
                found = "".join(
                    f"<Upload><Key>{upload.key.partition('/')[2]}</Key><UploadId>{name}</UploadId></Upload>"
                    for name, upload in self.uploads.items()
                    if upload.key.startswith(f"{key}/{query.get('prefix', '')}")
                )
                return _document(f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>")
            case "GET" if "list-type" in query:
                return self._list(key.rstrip("/"), query.get("prefix", ""))
            case _:
                return self._read(request, key)

    def _join(self, upload_id: str, document: str) -> web.Response:
        upload = self.uploads.get(upload_id)
        if upload is None:
            return _error(404, "NoSuchUpload")
        numbers = [int(number) for number in re.findall(r"<PartNumber>(\d+)</PartNumber>", document)]
        if numbers != sorted(numbers) or not all(number in upload.parts for number in numbers):
            return _error(400, "InvalidPart")
        if any(len(upload.parts[number]) < LEAST_PART for number in numbers[:-1]):
            return _error(400, "EntityTooSmall")
        self.objects[upload.key] = b"".join(upload.parts[number] for number in numbers)
        del self.uploads[upload_id]
        mark = _etag(self.objects[upload.key])
        return _document(f"<CompleteMultipartUploadResult><ETag>{mark}</ETag></CompleteMultipartUploadResult>")

    def _list(self, bucket: str, prefix: str) -> web.Response:
        found = "".join(
            f"<Contents><Key>{escape(key.partition('/')[2])}</Key><Size>{len(data)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, data in sorted(self.objects.items())
            if key.startswith(f"{bucket}/{prefix}")
        )
        return _document(f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")

    def _read(self, request: web.BaseRequest, key: str) -> web.Response:
        data = self.objects.get(key)
        if data is None:
            return _error(404, "NoSuchKey")
        headers = {"ETag": _etag(data), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(data))})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is None:
            return web.Response(body=data, headers=headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return web.Response(status=206, body=data[start:end], headers=headers)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _document(text: str) -> web.Response:
    return web.Response(text=f'<?xml version="1.0" encoding="UTF-8"?>{text}', content_type="application/xml")


def _error(status: int, code: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")
