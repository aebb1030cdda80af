"""Keys and what they sign, by joserfc and cryptography: JSON Web Tokens and keys. RFC 7515, RFC 7517, RFC 7519.

Imported where something is signed or verified, and before workers are forked if the settings say that it will be: with
the libraries it takes 10 MiB of a process's memory.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, KeySet, OKPKey
from joserfc.jws import JWSRegistry

__all__ = ["Key"]

OwnKey = ECKey | OKPKey


class Algorithms(JWSRegistry):
    """Knows the algorithms of its list. The library warns of EdDSA, renamed by RFC 9864; but others know that name."""

    def get_alg(self, name: str) -> Any:  # its type is not exported
        return self.algorithms[name] if name in (self.allowed or ()) else super().get_alg(name)


_OWN: Final = Algorithms(algorithms=["ES256", "EdDSA"])
# None that uses a shared secret: a public key must never be taken for one.
_FOREIGN: Final = Algorithms(
    algorithms=["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
)


def generate(algorithm: str) -> OwnKey:
    """A new key for ES256 or EdDSA."""
    if algorithm == "EdDSA":
        return OKPKey.generate_key("Ed25519", {"use": "sig", "alg": algorithm}, private=True, auto_kid=True)
    return ECKey.generate_key("P-256", {"use": "sig", "alg": algorithm}, private=True, auto_kid=True)


def import_own(data: str) -> OwnKey:
    """A key of `generate` again, from its JWK."""
    document = json.loads(data)
    return OKPKey.import_key(document) if document["kty"] == "OKP" else ECKey.import_key(document)


def algorithm_of(key: OwnKey) -> str:
    """What a key of ours signs by."""
    return "EdDSA" if isinstance(key, OKPKey) else "ES256"


def sign(claims: dict[str, Any], key: OwnKey, key_id: str) -> str:
    """Claims as a JWT."""
    return jwt.encode({"typ": "JWT", "alg": algorithm_of(key), "kid": key_id}, claims, key, registry=_OWN)


def verify_own(text: str, keys: Sequence[OwnKey]) -> dict[str, Any] | None:
    """The claims of a JWT that one of our keys has signed; None for anything else."""
    try:
        return jwt.decode(text, KeySet(list(keys)), registry=_OWN).claims
    except (JoseError, ValueError, TypeError):  # the last of a header whose `crit` is no list of names
        return None


def verify_foreign(text: str, key_id: Any, keys: Sequence[Key]) -> dict[str, Any] | None:
    """The claims of a JWT that one of somebody's keys has signed; None for anything else.

    `key_id` is what its header says, None if it says nothing.
    """
    for key in keys:
        if key_id is not None and key.kid is not None and key.kid != key_id:
            continue
        try:
            return jwt.decode(text, key, registry=_FOREIGN).claims
        except (JoseError, ValueError, TypeError):
            continue
    return None


def import_set(document: Any) -> list[Key]:
    """The public keys of a JWKS document that we know the kind of."""
    entries = document.get("keys") if isinstance(document, dict) else None
    keys = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            keys.append(JWKRegistry.import_key(entry))
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # of a kind that we don't know
    return keys


def import_pem(data: bytes) -> list[Key]:
    """Those of certificates or public keys in PEM. Raises ValueError."""
    try:
        return [_import_block(b"-----BEGIN " + part) for part in data.split(b"-----BEGIN ")[1:]]
    except (JoseError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error


def _import_block(block: bytes) -> Key:
    if block.startswith(b"-----BEGIN CERTIFICATE-----"):
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        block = x509.load_pem_x509_certificate(block).public_key().public_bytes(*form)
    public = serialization.load_pem_public_key(block)
    kind = {"RSA": "RSA", "Ell": "EC", "ECP": "EC"}.get(type(public).__name__.lstrip("_")[:3], "OKP")
    return JWKRegistry.import_key(block, kind)
