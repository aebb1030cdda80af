"""Certificates made with openssl, as people make them."""

import subprocess
from pathlib import Path


class Authority:
    """A private authority in a folder, which signs for 127.0.0.1 and for clients."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.cert, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert),
        )

    def sign(self, name: str, *, server: bool = False) -> tuple[Path, Path]:
        """Certificate and key for a common name."""
        cert, key, request = (self.folder / f"{name}.{ending}" for ending in ("crt", "key", "csr"))
        extensions = self.folder / f"{name}.ext"
        use = "serverAuth" if server else "clientAuth"
        extensions.write_text(f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={use}\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", cert),
        )
        return cert, key


def _openssl(*arguments: "str | Path") -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
