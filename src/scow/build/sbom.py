"""`--sbom`: a bill of materials of an image as SPDX 2.3, from the packages that are found in its layers.

https://spdx.github.io/spdx-spec/v2.3.
"""

import asyncio
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from scow import __version__
from scow.build.attestation import STATEMENT_V0, Predicate
from scow.build.packages import Package, scan
from scow.errors import InvalidArgument
from scow.oci.digest import DiffID, Digest
from scow.store.store import Store

SPDX: Final = "https://spdx.dev/Document"
NONE: Final = "NOASSERTION"
_NAMESPACE: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's, of URLs


def check_options(options: Mapping[str, str]) -> None:
    """Raise InvalidArgument for options of `--sbom` that mean nothing here."""
    for name in options:
        if name == "generator":
            raise InvalidArgument("sbom generators are not run: leave generator out, images are scanned by Scow itself")
        raise InvalidArgument(f"sbom has no option {name!r}")


async def make_sbom(store: Store, diff_ids: tuple[DiffID, ...], *, name: str, image: Digest, created: str) -> Predicate:
    """Scan an image's layers. `created` is RFC 3339, in seconds. Hold a lease around it."""
    packages: list[Package] = []
    if diff_ids:
        async with store.snapshots.view(diff_ids) as top:
            packages = await scan(top)
    value = await asyncio.to_thread(document, packages, name, image, created)
    return Predicate(type=SPDX, value=value, file="sbom.spdx.json", statement=STATEMENT_V0)


def document(packages: Sequence[Package], name: str, image: Digest, created: str) -> dict[str, Any]:
    """The SPDX document. The same packages, name and time give the same one."""
    top = "SPDXRef-DocumentRoot-Image"
    ids = [f"SPDXRef-Package-{each.kind}-{_word(each.name)}-{number}" for number, each in enumerate(packages)]
    relations = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": top}]
    relations += [{"spdxElementId": top, "relationshipType": "CONTAINS", "relatedSpdxElement": id} for id in ids]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{name} {image} {created}')}",
        "creationInfo": {"created": created, "creators": [f"Tool: scow-{__version__}"]},
        "packages": [
            {
                "name": name,
                "SPDXID": top,
                "versionInfo": image,
                "downloadLocation": NONE,
                "filesAnalyzed": False,
                "licenseConcluded": NONE,
                "licenseDeclared": NONE,
                "copyrightText": NONE,
                "primaryPackagePurpose": "CONTAINER",
            },
            *(_package(id, each) for id, each in zip(ids, packages, strict=True)),
        ],
        "relationships": relations,
    }


def _package(id: str, package: Package) -> dict[str, Any]:
    return {
        "name": package.name,
        "SPDXID": id,
        "versionInfo": package.version,
        "supplier": _supplier(package.supplier),
        "downloadLocation": NONE,
        "filesAnalyzed": False,
        "sourceInfo": f"acquired package info from {package.place}",
        "licenseConcluded": NONE,
        "licenseDeclared": package.license or NONE,
        "copyrightText": NONE,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": package.purl}
        ],
    }


def _supplier(text: str) -> str:
    """`Name <address>` as SPDX writes it: `Organization: Name (address)`."""
    if not text:
        return NONE
    found = re.fullmatch(r"\s*([^<>]*?)\s*<([^<>]+)>\s*", text)
    return f"Organization: {found[1]} ({found[2]})" if found and found[1] else f"Organization: {text.strip()}"


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)[:80]
