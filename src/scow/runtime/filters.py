"""Compiled seccomp filters, kept from one container to the next.

Compiling the default profile takes crun 15 ms, more than all else it does. It leaves the result beside its state
(`seccomp.bpf`), and takes such a program back by an annotation. The section stays in config.json: a crun that doesn't
know the annotation compiles it, as before.
"""

import base64
import contextlib
from collections import OrderedDict
from pathlib import Path
from typing import Final

import msgspec

from scow.runtime.oci_runtime import Gate, OciRuntime

ANNOTATION: Final = "run.oci.seccomp_bpf_data"
_FILE: Final = "seccomp.bpf"
_KEPT: Final = 64
_INSTRUCTION: Final = 8  # bytes of a struct sock_filter

_Object = dict[str, msgspec.Raw]


class Filters:
    """Programs by the runtime and section they were compiled from; used by one event loop's threads."""

    def __init__(self) -> None:
        self._programs: OrderedDict[tuple[Path, bytes], bytes] = OrderedDict()

    def annotate(self, spec: bytes, runtime: OciRuntime) -> tuple[bytes, bytes | None]:
        """The spec with its filter if that is known; and the section to `learn` it from if it is not.

        A spec whose annotations come with a filter of their own is left as it is.
        """
        if runtime.gate is not Gate.READS:  # runc takes no programs
            return spec, None
        document = msgspec.json.decode(spec, type=_Object)
        section = bytes(msgspec.json.decode(document["linux"], type=_Object).get("seccomp", b""))
        annotations = msgspec.json.decode(document.get("annotations", b"{}"), type=dict[str, str])
        if not section or ANNOTATION in annotations or "listenerPath" in msgspec.json.decode(section, type=_Object):
            return spec, None
        program = self._programs.get((runtime.path, section))
        if program is None:
            return spec, section
        self._programs.move_to_end((runtime.path, section))
        annotations[ANNOTATION] = base64.b64encode(program).decode()
        document["annotations"] = msgspec.Raw(msgspec.json.encode(annotations))
        return msgspec.json.encode(document), None

    def learn(self, section: bytes, runtime: OciRuntime, state: Path) -> None:
        """Keep the program that the runtime has left in a container's state folder."""
        with contextlib.suppress(FileNotFoundError):
            program = (state / _FILE).read_bytes()
            if program and len(program) % _INSTRUCTION == 0:
                self._programs[runtime.path, section] = program
                while len(self._programs) > _KEPT:
                    self._programs.popitem(last=False)
