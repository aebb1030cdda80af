"""Whether the registry of these settings takes requests on this machine, as checks of a container's health ask."""

import http.client
import ssl

from scow.registry.settings import Settings

_TIMEOUT_S = 4.0


def ready(settings: Settings) -> bool:
    """Whether a registry answers at the address of `settings` and is not about to end.

    Certificates are not verified, as their names are hardly those of the loopback. A registry that turns us away
    because we have no certificate to show is taken for ready. Raises SettingsInvalid.
    """
    host, port = settings.address()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    if settings.tls is not None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (ConnectionRefusedError, TimeoutError):
        return False
    except (OSError, http.client.HTTPException):
        return settings.tls is not None and bool(settings.tls.client_ca) and not settings.tls.client_optional
    finally:
        connection.close()
