"""Hashes that go on elsewhere."""

import hashlib

import pytest

from scow.registry.running_hash import can_save, new_hash, restored
from scow.registry.s3 import Keys, sign


@pytest.mark.parametrize("name", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, 55, 64, 127, 128, 129, 1_000_003])
def test_a_saved_hash_goes_on_where_it_was(name: str, size: int) -> None:
    assert can_save()
    state = new_hash(name)
    state.update(b"a" * size)
    saved = state.save()  # type: ignore[union-attr]
    state.update(b"left behind")
    again = restored(name, saved)
    assert again is not None
    again.update(b"b" * size)
    assert again.copy().hexdigest() == hashlib.new(name, b"a" * size + b"b" * size).hexdigest()
    assert again.hexdigest() == again.copy().hexdigest()


@pytest.mark.parametrize("saved", [b"", b"other", b"\2" * 109])
def test_what_another_version_saved_is_not_used(saved: bytes) -> None:
    assert restored("sha256", saved) is None


def test_a_request_is_signed_as_amazon_wants_it() -> None:
    """Compared with botocore 1.44.8's S3SigV4Auth for the same request."""
    headers = sign("PUT", "s3.example", "/b/k", "partNumber=1&uploadId=u", "us-east-1", Keys("AK", "SK"), 1_700_000_000)
    assert headers["x-amz-date"] == "20231114T221320Z"
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AK/20231114/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
        "Signature=21f163ae084bdfdba29940863a4d0cf21df5d71805723cf7bd48e9faf88a4ace"
    )
