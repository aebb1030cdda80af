"""nftables, by libnftables in process (libnftables(3)): commands in nft's own language, each script one transaction."""

import ctypes
import ctypes.util
import threading
from typing import Final

_NFT_CTX_DEFAULT: Final = 0
_OUTPUT_JSON: Final = 1 << 4


class NftablesMissing(OSError):
    """The machine has no libnftables."""


class NftablesFailed(OSError):
    """The kernel or the parser refused a script; none of it took effect. `script` is what was asked."""

    def __init__(self, answer: str, script: str) -> None:
        super().__init__(f"nftables: {answer.strip() or 'refused without a reason'}")
        self.script = script


class Nftables:
    """A libnftables context. Calls are serialised by a lock and may wait for the kernel: use it from threads."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("nftables") if not _loads("libnftables.so.1") else "libnftables.so.1"
        if name is None:
            raise NftablesMissing("libnftables.so.1 is not installed (package libnftables1 or nftables)")
        library = ctypes.CDLL(name)
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for reader in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
            reader.argtypes = [ctypes.c_void_p]
            reader.restype = ctypes.c_char_p
        self._library = library
        self._lock = threading.Lock()
        self._context = library.nft_ctx_new(_NFT_CTX_DEFAULT)
        if not self._context:
            raise MemoryError("nft_ctx_new")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, script: str, *, json: bool = False) -> str:
        """Run a script, all of it or nothing, and return what it prints. Raises NftablesFailed."""
        with self._lock:
            if not self._context:
                raise NftablesFailed("context is closed", script)
            self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON if json else 0)
            failed = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context)
            answer = self._library.nft_ctx_get_error_buffer(self._context)
            if failed:
                raise NftablesFailed((answer or b"").decode(errors="replace"), script)
            return (output or b"").decode(errors="replace")

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        with self._lock:
            if self._context:
                self._library.nft_ctx_free(self._context)
                self._context = None


def _loads(name: str) -> bool:
    # find_library runs ldconfig in a subprocess, so the usual name is tried first.
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
