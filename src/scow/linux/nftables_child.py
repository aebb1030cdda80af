"""The process that holds libnftables for nftables.py: `python -I -S nftables_child.py FD`.

Kept apart from the engine because the library, when another program changes the ruleset under its hands, may crash or
end its process (seen: a segmentation fault in nft_run_cmd_from_buffer of 1.0.6; by its source, exit(3) when a socket
can't be opened). FD is a stream socket: a request is HEAD and the script, an answer HEAD and what was printed.
"""

import contextlib
import ctypes
import ctypes.util
import signal
import socket
import struct
import sys
from typing import Final

HEAD: Final = struct.Struct("=BI")
"""A byte and the number of bytes that follow. Of a request the byte says whether JSON is wanted, of an answer what
became of it: DONE, REFUSED or MISSING."""
DONE: Final = 0
REFUSED: Final = 1
MISSING: Final = 2

_NFT_CTX_DEFAULT: Final = 0
_OUTPUT_JSON: Final = 1 << 4
_PR_SET_NAME: Final = 15


def receive(connection: socket.socket) -> tuple[int, bytes] | None:
    """The next message; None when the other side has closed."""
    head = connection.recv(HEAD.size, socket.MSG_WAITALL)
    if len(head) < HEAD.size:
        return None
    kind, size = HEAD.unpack(head)
    data = bytearray()
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            return None
        data += more
    return kind, bytes(data)


def send(connection: socket.socket, kind: int, data: bytes) -> None:
    """Send one message."""
    connection.sendall(HEAD.pack(kind, len(data)) + data)


def load() -> ctypes.CDLL:
    """The library, with the types of its calls. Raises OSError."""
    # find_library runs ldconfig in a subprocess, so the usual name is tried first.
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        name = ctypes.util.find_library("nftables")
        if name is None:
            raise
        library = ctypes.CDLL(name)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
    library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for reader in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
        reader.argtypes = [ctypes.c_void_p]
        reader.restype = ctypes.c_char_p
    return library


def serve(connection: socket.socket) -> None:
    """Run script after script, until the engine's end closes."""
    try:
        library = load()
    except OSError as error:
        while receive(connection) is not None:
            send(connection, MISSING, str(error).encode())
        return
    context = library.nft_ctx_new(_NFT_CTX_DEFAULT)
    library.nft_ctx_buffer_output(context)
    library.nft_ctx_buffer_error(context)
    while (request := receive(connection)) is not None:
        json, script = request
        library.nft_ctx_output_set_flags(context, _OUTPUT_JSON if json else 0)
        failed = library.nft_run_cmd_from_buffer(context, script)
        output = library.nft_ctx_get_output_buffer(context) or b""
        answer = library.nft_ctx_get_error_buffer(context) or b""
        send(connection, REFUSED if failed else DONE, answer if failed else output)


def main() -> None:
    """Serve the socket that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is the engine's to handle
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"scow-nftables", 0, 0, 0)
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(ConnectionError):
        serve(connection)


if __name__ == "__main__":
    main()
