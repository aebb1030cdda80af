"""Opens the object store that a URL names: `s3://bucket/prefix`, `gs://...`, `az://...`, `memory://`."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from scow.registry.bucket import ObstoreBucket
from scow.registry.s3 import Keys, S3Bucket
from scow.registry.settings import Bucket, SettingsInvalid

_CLIENT: Final[Any] = {"timeout": timedelta(seconds=300), "connect_timeout": timedelta(seconds=10)}
_RETRY: Final[Any] = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}


def open_bucket(url: str, settings: Bucket, environment: Mapping[str, str] = os.environ) -> ObstoreBucket:
    """A bucket by its URL. Connects to nothing. Raises SettingsInvalid."""
    parts = urlsplit(url)
    options: dict[str, Any] = {"client_options": _CLIENT, "retry_config": _RETRY, **settings.options}
    prefix = parts.path.strip("/")
    prefix = f"{prefix}/" if prefix else ""
    try:
        match parts.scheme:
            case "s3":
                return _s3(parts.netloc, prefix, settings, environment)
            case "gs":
                return ObstoreBucket(GCSStore(parts.netloc, **options), prefix)
            case "az":
                return ObstoreBucket(AzureStore(parts.netloc, **options), prefix)
            case "memory":
                return ObstoreBucket(MemoryStore(), prefix)
    except (BaseError, TypeError) as error:
        raise SettingsInvalid("bucket", str(error)) from error
    raise SettingsInvalid("storage", f"{parts.scheme}:// is no object store that is known: s3, gs or az")


def _s3(bucket: str, prefix: str, settings: Bucket, environment: Mapping[str, str]) -> ObstoreBucket:
    access = settings.access_key or environment.get("AWS_ACCESS_KEY_ID", "")
    secret = settings.secret_key or environment.get("AWS_SECRET_ACCESS_KEY", "")
    token = "" if settings.access_key else environment.get("AWS_SESSION_TOKEN", "")
    endpoint = settings.endpoint or f"https://s3.{settings.region}.amazonaws.com"

    def store(at: str) -> S3Store:
        options: dict[str, Any] = {"region": settings.region, "retry_config": _RETRY, **settings.options}
        if access:
            options |= {"access_key_id": access, "secret_access_key": secret}
        if token:
            options["session_token"] = token
        options["client_options"] = {**_CLIENT, "allow_http": at.startswith("http://")}
        return S3Store(bucket, endpoint=at, virtual_hosted_style_request=False, **options)

    signer = store(settings.public_endpoint) if settings.public_endpoint else None
    if not access:
        # Keys of the machine's role, which obstore finds. Requests of ours can't be signed, so parts are objects then.
        return ObstoreBucket(store(endpoint), prefix, signer)
    keys = Keys(access, secret, token)
    return S3Bucket(store(endpoint), prefix, endpoint, bucket, settings.region, keys, signer)
