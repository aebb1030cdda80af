"""Packages found in a file system, and the bill of materials that is made of them."""

import json
import sqlite3
import struct
from pathlib import Path

import pytest

from scow.build import sbom
from scow.build.packages import find_packages, scan
from scow.oci.digest import Digest

DEBIAN = b'ID=debian\nVERSION_ID="12"\n'
DPKG = b"""Package: bash
Status: install ok installed
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Version: 5.2.15-2+b7
Description: GNU Bourne Again SHell
 Bash is a shell
Version: not this one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 1:12.2.0-14
"""
APK = b"C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nm:Timo <timo@example.org>\n\nP:broken\n\n"


def put(top: Path, name: str, data: bytes) -> Path:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def purls(top: Path) -> list[str]:
    return [package.purl for package in find_packages(top)]


def test_dpkg(tmp_path: Path) -> None:
    put(tmp_path, "etc/os-release", DEBIAN)
    put(tmp_path, "var/lib/dpkg/status", DPKG)
    assert purls(tmp_path) == [
        "pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14?arch=amd64&distro=debian-12",
    ]


def test_dpkg_of_images_without_a_distribution(tmp_path: Path) -> None:
    put(tmp_path, "var/lib/dpkg/status.d/base", b"Package: base-files\nVersion: 12.4\nArchitecture: all\n")
    put(tmp_path, "var/lib/dpkg/status.d/base.md5sums", b"Package: none\nVersion: 1\n")
    assert purls(tmp_path) == ["pkg:deb/debian/base-files@12.4?arch=all"]


def test_apk(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/os-release", b"ID=alpine\nVERSION_ID=3.20.1\n")
    put(tmp_path, "lib/apk/db/installed", APK)
    (found,) = find_packages(tmp_path)
    assert found.purl == "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1"
    assert (found.license, found.supplier) == ("MIT", "Timo <timo@example.org>")


def header(*fields: tuple[int, int, bytes]) -> bytes:
    """A header as rpm stores it."""
    index = data = b""
    for tag, kind, value in fields:
        index += struct.pack(">IIII", tag, kind, len(data), 1)
        data += value
    return struct.pack(">II", len(fields), len(data)) + index + data


def test_rpm(tmp_path: Path) -> None:
    put(tmp_path, "etc/os-release", b"ID=fedora\nVERSION_ID=40\n")
    place = put(tmp_path, "usr/lib/sysimage/rpm/rpmdb.sqlite", b"")
    texts = [(1000, 6, b"dbus\0"), (1001, 6, b"1.14\0"), (1002, 6, b"3.fc40\0"), (1022, 6, b"x86_64\0")]
    with sqlite3.connect(place) as db:
        db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
        db.execute("INSERT INTO Packages (blob) VALUES (?)", [header(*texts, (1003, 4, struct.pack(">I", 1)))])
        db.execute("INSERT INTO Packages (blob) VALUES (?)", [header((1000, 6, b"gpg-pubkey\0"), (1001, 6, b"1\0"))])
        db.execute("INSERT INTO Packages (blob) VALUES (?)", [b"\xff" * 40])
    db.close()
    assert purls(tmp_path) == ["pkg:rpm/fedora/dbus@1.14-3.fc40?arch=x86_64&distro=fedora-40&epoch=1"]


def test_python_and_npm(tmp_path: Path) -> None:
    site = "usr/lib/python3/dist-packages"
    put(
        tmp_path, f"{site}/Flask_Login-1.0.dist-info/METADATA", b"Name: Flask_Login\nVersion: 1.0\nLicense: x\n\nbody\n"
    )
    put(tmp_path, f"{site}/old.egg-info", b"Name: old\nVersion: 2\n")
    put(tmp_path, f"{site}/dir.egg-info/PKG-INFO", b"Name: dir\nVersion: 3\n")
    put(tmp_path, "app/node_modules/left/package.json", b'{"name": "left", "version": "1.1.0", "license": "MIT"}')
    put(tmp_path, "app/node_modules/@at/x/package.json", b'{"name": "@at/x", "version": "2.0.0"}')
    put(tmp_path, "app/node_modules/left/deep/package.json", b'{"name": "deep", "version": "1"}')
    put(tmp_path, "app/package.json", b'{"name": "app", "version": "1"}')
    assert purls(tmp_path) == [
        *("pkg:npm/%40at/x@2.0.0", "pkg:npm/left@1.1.0"),
        *("pkg:pypi/flask-login@1.0", "pkg:pypi/dir@3", "pkg:pypi/old@2"),
    ]


@pytest.mark.parametrize("data", [b"[1]", b"{", b"\xff", b'{"name": 1, "version": []}', b"[" * 100_000])
def test_records_that_make_no_sense_are_passed_over(tmp_path: Path, data: bytes) -> None:
    put(tmp_path, "node_modules/x/package.json", data)
    put(tmp_path, "var/lib/dpkg/status", data)
    put(tmp_path, "var/lib/rpm/rpmdb.sqlite", data)
    put(tmp_path, "x.dist-info/METADATA", data)
    assert find_packages(tmp_path) == []


def test_links_lead_nowhere_outside(tmp_path: Path) -> None:
    top = tmp_path / "top"
    outside = put(tmp_path, "status", DPKG)
    (top / "var/lib/dpkg").mkdir(parents=True)
    (top / "var/lib/dpkg/status").symlink_to(outside)
    (top / "loop").symlink_to("/")
    put(tmp_path, "x.dist-info/METADATA", b"Name: x\nVersion: 1\n")
    (top / "up").symlink_to("..")
    assert find_packages(top) == []


async def test_another_process_finds_the_same(tmp_path: Path) -> None:
    put(tmp_path, "var/lib/dpkg/status", DPKG)
    assert await scan(tmp_path) == find_packages(tmp_path) != []


def test_a_bill_of_materials_is_spdx(tmp_path: Path) -> None:
    put(tmp_path, "etc/os-release", DEBIAN)
    put(tmp_path, "var/lib/dpkg/status", DPKG)
    digest = Digest("sha256:" + "a" * 64)
    made = sbom.document(find_packages(tmp_path), "web:1", digest, "2026-01-01T00:00:00Z")
    assert made == sbom.document(find_packages(tmp_path), "web:1", digest, "2026-01-01T00:00:00Z")
    assert (made["spdxVersion"], made["SPDXID"], made["name"]) == ("SPDX-2.3", "SPDXRef-DOCUMENT", "web:1")
    root, bash, cpp = made["packages"]
    assert root["primaryPackagePurpose"] == "CONTAINER"
    assert bash["supplier"] == "Organization: Matthias Klose (doko@debian.org)"
    assert bash["externalRefs"][0]["referenceLocator"].startswith("pkg:deb/debian/bash@")
    related = {(each["relationshipType"], each["relatedSpdxElement"]) for each in made["relationships"]}
    assert related == {("DESCRIBES", root["SPDXID"]), ("CONTAINS", bash["SPDXID"]), ("CONTAINS", cpp["SPDXID"])}
    json.dumps(made)
