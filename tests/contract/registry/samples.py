"""Content as the conformance suite pushes it: images, indexes, artifacts, in both digest algorithms."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, Client, descriptor, digest_of

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
ALGORITHMS = ("sha256", "sha512")


@dataclass
class Document:
    """A manifest as bytes, in the order in which it has to be pushed."""

    media_type: str
    data: bytes
    digest: str
    subject: str | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


@dataclass
class Sample:
    """Blobs and manifests that belong together; the last manifest is the one that gets the tag."""

    algorithm: str
    blobs: dict[str, bytes] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)

    @property
    def top(self) -> Document:
        return self.documents[-1]

    def blob(self, media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
        digest = digest_of(content, self.algorithm)
        self.blobs[digest] = content
        return descriptor(media_type, digest, len(content), **more)

    def document(self, media_type: str, **fields: Any) -> dict[str, Any]:
        """Add a manifest; its descriptor."""
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **fields}, indent=1).encode()
        subject = fields.get("subject")
        kind = fields.get("artifactType") or fields.get("config", {}).get("mediaType")
        self.documents.append(
            Document(
                media_type,
                data,
                digest_of(data, self.algorithm),
                subject["digest"] if subject else None,
                kind,
                fields.get("annotations"),
            )
        )
        return descriptor(media_type, self.top.digest, len(data))

    def image(self, seed: str = "", media_type: str = MANIFEST, **more: Any) -> dict[str, Any]:
        config = self.blob(CONFIG, f'{{"architecture":"amd64","os":"linux","seed":"{seed}"}}'.encode())
        layers = [self.blob(LAYER, f"layer {number} {seed}".encode() * 50) for number in range(2)]
        return self.document(media_type, config=config, layers=layers, **more)

    async def push(self, client: Client, repository: str = "test/repo") -> None:
        for digest, data in self.blobs.items():
            assert await client.push_blob(data, repository, self.algorithm) == digest
        for document in self.documents:
            await push_document(client, document, repository=repository)


async def push_document(
    client: Client, document: Document, reference: str = "", repository: str = "test/repo", tags: Sequence[str] = ()
) -> None:
    """Push a manifest and look at everything that the answer has to say."""
    query = "&".join(f"tag={tag}" for tag in tags)
    path = f"/v2/{repository}/manifests/{reference or document.digest}{f'?{query}' if query else ''}"
    answer = await client("PUT", path, document.data, Content_Type=document.media_type)
    assert answer.status == 201, answer.body
    wanted = document.digest if not reference else digest_of(document.data)
    assert answer.headers["Docker-Content-Digest"] == wanted
    assert answer.headers["Location"] == f"/v2/{repository}/manifests/{wanted}"
    assert answer.headers.get("OCI-Subject") == document.subject
    assert answer.headers.getall("OCI-Tag", []) == list(tags)


def image(sample: Sample) -> None:
    sample.image()


def image_without_layers(sample: Sample) -> None:
    sample.document(MANIFEST, config=sample.blob(CONFIG, b"{}"), layers=[])


def image_with_an_uncompressed_layer(sample: Sample) -> None:
    layer = sample.blob("application/vnd.oci.image.layer.v1.tar", b"tar" * 700)
    sample.document(MANIFEST, config=sample.blob(CONFIG, b"{ }"), layers=[layer])


def image_with_foreign_layers(sample: Sample) -> None:
    absent = descriptor(FOREIGN, digest_of(b"elsewhere", sample.algorithm), 9, urls=["https://example.org/layer"])
    sample.document(MANIFEST, config=sample.blob(CONFIG, b"{} "), layers=[sample.blob(LAYER, b"here"), absent])


def image_with_unknown_fields(sample: Sample) -> None:
    sample.image("fields", **{"org.example.extension": {"deep": [1, 2.5, None, True]}, "empty": ""})


def image_with_annotations(sample: Sample) -> None:
    sample.image("notes", annotations={"org.opencontainers.image.created": "2026-01-01T00:00:00Z", "": "é"})


def image_with_embedded_data(sample: Sample) -> None:
    config = sample.blob(CONFIG, b"{}", data="e30=")
    sample.document(MANIFEST, config=config, layers=[])


def index(sample: Sample) -> None:
    children = [sample.image("amd64"), sample.image("arm64")]
    for child, architecture in zip(children, ("amd64", "arm64"), strict=True):
        child["platform"] = {"architecture": architecture, "os": "linux"}
    sample.document(INDEX, manifests=children)


def index_of_indexes(sample: Sample) -> None:
    inner = sample.document(INDEX, manifests=[sample.image("inner")])
    sample.document(INDEX, manifests=[inner, sample.image("beside")])


def index_without_manifests(sample: Sample) -> None:
    sample.document(INDEX, manifests=[])


def artifact(sample: Sample) -> None:
    empty = sample.blob("application/vnd.oci.empty.v1+json", b"{}", data="e30=")
    note = sample.blob("text/plain", b"anything at all")
    sample.document(MANIFEST, artifactType="application/vnd.example.thing", config=empty, layers=[note])


def artifact_without_layers(sample: Sample) -> None:
    empty = sample.blob("application/vnd.oci.empty.v1+json", b"{}", data="e30=")
    sample.document(MANIFEST, artifactType="application/vnd.example.bare", config=empty, layers=[empty])


def artifact_index(sample: Sample) -> None:
    sample.document(INDEX, artifactType="application/vnd.example.set", manifests=[sample.image("member")])


def artifact_manifest(sample: Sample) -> None:
    blob = sample.blob("application/octet-stream", b"blob of an artifact")
    media_type = "application/vnd.oci.artifact.manifest.v1+json"
    sample.document(media_type, artifactType="application/vnd.example.old", blobs=[blob])


def docker_image(sample: Sample) -> None:
    sample.image("docker", DOCKER_MANIFEST)


def docker_list(sample: Sample) -> None:
    sample.document(DOCKER_LIST, manifests=[sample.image("docker", DOCKER_MANIFEST)])


def referrers(sample: Sample) -> None:
    """An image, then three that refer to it: by artifactType, by its config's type, and an index."""
    subject = sample.image("subject")
    notes = {"org.example.note": "kept"}
    sample.image("signed", subject=subject, artifactType="application/vnd.example.signature", annotations=notes)
    sample.image("plain", subject=subject)
    sample.document(INDEX, manifests=[], subject=subject, artifactType="application/vnd.example.set", annotations=notes)


def referrer_of_nothing(sample: Sample) -> None:
    sample.image("early", subject=descriptor(MANIFEST, digest_of(b"not yet pushed", sample.algorithm), 14))


SAMPLES = (
    image,
    image_without_layers,
    image_with_an_uncompressed_layer,
    image_with_foreign_layers,
    image_with_unknown_fields,
    image_with_annotations,
    image_with_embedded_data,
    index,
    index_of_indexes,
    index_without_manifests,
    artifact,
    artifact_without_layers,
    artifact_index,
    artifact_manifest,
    docker_image,
    docker_list,
    referrers,
    referrer_of_nothing,
)
