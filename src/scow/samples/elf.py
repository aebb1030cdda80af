"""Static programs of a few instructions for Linux, assembled here: an ELF file that prints a text and exits with 0.

ELF-64 with one loaded segment; the text lies behind the code. The instructions are written out for both architectures.
"""

import struct
from typing import Final

BASE: Final = 0x400000
HEADERS: Final = 64 + 56  # the ELF header and one program header
MACHINES: Final = {"amd64": 62, "arm64": 183}  # e_machine


def printing_program(architecture: str, text: bytes) -> bytes:
    """An executable for `amd64` or `arm64` that writes `text` to standard output. Raises KeyError for others."""
    machine = MACHINES[architecture]
    code = _amd64(len(text)) if architecture == "amd64" else _arm64(len(text))
    size = HEADERS + len(code) + len(text)
    header = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)  # 64 bits, little endian, version 1, System V
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)  # PT_LOAD, readable and executable
    return header + segment + code + text


def _amd64(length: int) -> bytes:
    tail = bytes.fromhex("0f0531ffb83c0000000f05")  # syscall; xor edi, edi; mov eax, 60 (exit); syscall
    ahead = (
        b"\xba" + struct.pack("<I", length) + b"\xb8" + struct.pack("<I", 1) + tail
    )  # mov edx, length; eax, 1 (write)
    load = b"\x48\x8d\x35" + struct.pack("<i", len(ahead))  # lea rsi, [rip + what is ahead]: the text
    return b"\xbf\x01\x00\x00\x00" + load + ahead  # mov edi, 1 (standard output)


def _arm64(length: int) -> bytes:
    def mov(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register  # movz x<register>, #value

    svc = 0xD4000001
    after_adr = 7 * 4  # the adr itself and what follows it
    adr = 0x10000000 | (after_adr >> 2) << 5 | 1  # adr x1, text
    words = [mov(0, 1), adr, mov(2, length), mov(8, 64), svc, mov(0, 0), mov(8, 93), svc]
    return struct.pack("<8I", *words)
