"""Certificate authorities are not read while modules are imported, and are there when they are needed."""

import ssl
import subprocess
import sys

from scow.transfer.authorities import LateAuthorities, authorities_later

PROBE = """
import gc, ssl
from scow.transfer import authorities
made = ssl.create_default_context
with authorities.authorities_later():
    import aiohttp.connector as connector
late, unverified = connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED
assert isinstance(late, authorities.LateAuthorities), late
assert late.verify_mode == ssl.CERT_REQUIRED and late.check_hostname
assert unverified.verify_mode == ssl.CERT_NONE
assert ssl.create_default_context is made
assert "set_default_verify_paths" not in vars(ssl.SSLContext)
"""


def test_certificate_authorities_are_not_read_while_modules_are_imported() -> None:
    subprocess.run([sys.executable, "-c", PROBE], check=True)


def test_a_connection_reads_the_machines_authorities_first() -> None:
    with authorities_later():
        late = ssl.create_default_context()
    assert isinstance(late, LateAuthorities)
    assert late.cert_store_stats()["x509"] == 0
    late.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="example.org")
    assert late.cert_store_stats() == ssl.create_default_context().cert_store_stats()
