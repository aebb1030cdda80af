"""The client's own version and the API version that it speaks."""

from scow import __version__
from scow.cli.engine import NEWEST

CLIENT_VERSION = __version__
API_VERSION = f"{NEWEST[0]}.{NEWEST[1]}"
