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

    def sign(self, name: str, *, server: bool = False, days: int = 2) -> tuple[Path, Path]:
        """Certificate and key for a common name; with `days` below zero it has expired."""
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
            *("-days", days, "-extfile", extensions, "-out", cert),
        )
        return cert, key

    def revocation_list(self, *revoked: Path, expired: bool = False) -> Path:
        """A list of certificates of ours that count no more."""
        made, index, config = (self.folder / f"revoked.{ending}" for ending in ("crl", "index", "conf"))
        index.write_text("")
        config.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={index}\ndefault_md=sha256\ncrlnumber={self.folder / 'number'}\n"
        )
        (self.folder / "number").write_text("01\n")
        signer = ("-config", config, "-keyfile", self.key, "-cert", self.cert)
        for cert in revoked:
            _openssl("ca", *signer, "-revoke", cert)
        past = ("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z")
        _openssl("ca", *signer, "-gencrl", *(past if expired else ("-crldays", 2)), "-out", made)
        return made


def _openssl(*arguments: "str | Path | int") -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
