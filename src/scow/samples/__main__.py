"""Push the sample images to a registry that takes them without credentials: `python -m scow.samples HOST:PORT`."""

import sys
import urllib.error
import urllib.parse
import urllib.request

from scow.samples.hello_world import Blob, hello_world

REPOSITORY = "library/hello-world"
TAG = "latest"


def push(registry: str) -> str:
    """Push hello-world to `http://registry` and return the digest of its index. Raises urllib.error.URLError."""
    base = f"http://{registry}/v2/{REPOSITORY}"
    image = hello_world()
    for blob in image.blobs:
        push_blob(base, blob)
    for manifest in image.manifests:
        put(f"{base}/manifests/{manifest.digest}", manifest)
    put(f"{base}/manifests/{TAG}", image.top)
    return image.top.digest


def push_blob(base: str, blob: Blob) -> None:
    """Push one blob to the repository at `base` unless it is there."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{base}/blobs/{blob.digest}", method="HEAD")):
            return
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    # distribution-spec, "Pushing a blob monolithically": POST, then PUT.
    with urllib.request.urlopen(urllib.request.Request(f"{base}/blobs/uploads/", method="POST", data=b"")) as answer:
        location = urllib.parse.urljoin(base, answer.headers["Location"])
    separator = "&" if "?" in location else "?"
    put(f"{location}{separator}digest={urllib.parse.quote(blob.digest)}", blob, "application/octet-stream")


def put(url: str, blob: Blob, media_type: str = "") -> None:
    """Send content by PUT."""
    headers = {"Content-Type": media_type or blob.media_type}
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=blob.data, headers=headers)):
        pass


def main() -> int:
    """Push to the registry named on the command line."""
    if len(sys.argv) != 2:
        print("usage: python -m scow.samples HOST:PORT", file=sys.stderr)
        return 2
    try:
        digest = push(sys.argv[1])
    except OSError as error:
        print(f"cannot push {REPOSITORY} to {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    print(f"{sys.argv[1]}/{REPOSITORY}:{TAG}@{digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
