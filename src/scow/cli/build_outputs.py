"""Where `scow build` brings its result: what the engine is asked for, and what is fetched or pushed after it."""

from __future__ import annotations

import os
import sys

from scow.cli.archives import Pieces, unpack
from scow.cli.errors import CliError
from scow.cli.http import HttpError, quote
from scow.cli.jsontext import dumps
from scow.cli.names import parse_name
from scow.cli.progress import ProgressView
from scow.cli.pulling import registry_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from scow.cli.flags import Options
    from scow.cli.session import Session

TYPES = ("image", "registry", "docker", "oci", "local", "tar", "cacheonly")
TRUE = ("true", "1", "t")
PLAIN = frozenset({"dest", "name", "push", "tar"})  # options that an engine needn't know


class Output:
    """One `--output`: its type and options."""

    def __init__(self, text: str) -> None:
        """Read BuildKit's words: `type=TYPE[,KEY=VALUE...]`, a folder, or `-`. Raises CliError."""
        fields = [each.strip().partition("=") for each in _csv(text)]
        if len(fields) == 1 and not fields[0][1]:
            fields = [("type", "=", "tar" if text == "-" else "local"), ("dest", "=", text)]
        self.options = {name.lower(): value for name, _, value in fields}
        self.type = self.options.pop("type", "")
        self.dest = self.options.get("dest", "")
        if not self.type:
            raise CliError(f"type is required for output: one of {', '.join(TYPES)}")
        if self.type not in TYPES:
            raise CliError(f"unsupported output type {self.type!r}: one of {', '.join(TYPES)}")
        if self.type in ("local", "tar", "oci") and not self.dest:
            raise CliError(f"dest is required for {self.type} output")
        if self.dest and self.type in ("image", "registry", "cacheonly"):
            raise CliError(f"dest is not supported by {self.type} output")
        if self.type == "local" and self.dest == "-":
            raise CliError("dest cannot be stdout for local output")
        if self.to_stdout and sys.stdout.isatty():
            raise CliError(f"dest file is required for {self.type} output: refusing to write to console")
        if self.is_file and not self.is_tree and self.dest != "-" and os.path.isdir(self.dest):
            raise CliError(f"destination directory {self.dest} must not be a directory")

    @property
    def is_file(self) -> bool:
        """Whether it is fetched from the engine."""
        return bool(self.dest)

    @property
    def is_tree(self) -> bool:
        """Whether it becomes a folder here."""
        return self.type == "local" or (self.is_file and self.options.get("tar", "true").lower() in ("false", "0", "f"))

    @property
    def to_stdout(self) -> bool:
        return self.dest == "-"

    @property
    def names(self) -> list[str]:
        """Names of its own, beside the tags."""
        return [name for name in self.options.get("name", "").split(",") if name]

    @property
    def is_pushed(self) -> bool:
        return self.type == "registry" or (self.type == "image" and self.options.get("push", "").lower() in TRUE)


def outputs_of(options: Options) -> list[Output]:
    """What was asked for, shorthands included. Raises CliError."""
    found = [Output(text) for text in options.texts("output")]
    images = [output for output in found if output.type == "image"]
    if options.flag("push"):
        for output in images:
            output.options["push"] = "true"
        if not images and not any(output.type == "registry" for output in found):
            found.append(Output("type=registry"))
    if options.flag("load") and not any(output.type == "docker" for output in found):
        found.append(Output("type=docker"))
    if any(output.is_pushed for output in found):
        names = [*options.texts("tag"), *(name for output in found for name in output.names)]
        if not names:
            raise CliError("tag is needed when pushing to registry")
    if sum(output.to_stdout for output in found) > 1:
        raise CliError("only one output can go to stdout")
    return found


def output_query(options: Options, outputs: list[Output]) -> list[str]:
    """The parameters that tell the engine of outputs, annotations and attestations."""
    words = []
    if outputs:
        asked = [{"Type": output.type, "Attrs": {**output.options, **_placed(output)}} for output in outputs]
        words.append(f"outputs={quote(dumps(asked))}")
    words += [f"annotation={quote(text)}" for text in options.texts("annotation")]
    attested = list(options.texts("attest"))
    for type in ("provenance", "sbom"):
        text = options.text(type)
        if text.lower() in (*TRUE, "false", "0", "f"):
            attested.append(f"type={type},disabled={'false' if text.lower() in TRUE else 'true'}")
        elif text:
            attested.append(f"type={type},{text}")
    words += [f"attest={quote(text)}" for text in attested]
    if options.text("metadata-file") or has_wishes(options, outputs):
        words.append("metadata=1")
    return words


def has_wishes(options: Options, outputs: list[Output]) -> bool:
    """Whether something is asked for that only our engine can do: dockerd passes over what it doesn't know."""
    if any(set(output.options) - PLAIN for output in outputs) or options.texts("annotation") or options.texts("attest"):
        return True
    return any(options.text(name).lower() not in ("", "false", "0", "f") for name in ("provenance", "sbom"))


def check_made(made: dict[str, Any], options: Options, outputs: list[Output]) -> None:
    """Raise CliError if the engine has passed over what the image was to have."""
    if has_wishes(options, outputs) and "Provenance" not in made:
        raise CliError(
            "the engine has built a plain image: it knows no attestations, annotations and options of outputs"
        )


def _placed(output: Output) -> dict[str, str]:
    return {"dest": "-"} if output.dest else {}  # where it goes to here isn't the engine's business


def deliver(session: Session, made: dict[str, Any], tags: list[str], outputs: list[Output]) -> None:
    """Fetch what the engine has made for us, and let it go there. Raises CliError."""
    result = made.get("Result")
    files = [output for output in outputs if output.is_file]
    if not result:
        for output in files:
            _from_image(session, str(made.get("ID", "")), tags, output)
        return
    try:
        for number, output in enumerate(files):
            kind = "trees" if output.type in ("local", "tar") else "archives"
            _bring(session, f"/scow/build/results/{result}/{kind}/{number}", output)
    finally:
        session.engine.call("DELETE", f"/scow/build/results/{result}")


def _from_image(session: Session, id: str, tags: list[str], output: Output) -> None:
    """The same of an engine that knows images only: dockerd."""
    if output.type not in ("local", "tar"):
        names = "&".join(f"names={quote(name)}" for name in tags or [id])
        _bring(session, f"/images/get?{names}", output)
        return
    body = {"Image": id, "Cmd": ["-"], "NetworkDisabled": True}
    container = session.engine.post("/containers/create", body=body)["Id"]
    try:
        _bring(session, f"/containers/{container}/export", output)
    finally:
        session.engine.call("DELETE", f"/containers/{container}", {"force": "1", "v": "1"})


def _bring(session: Session, path: str, output: Output) -> None:
    response = session.engine.open("GET", path)
    try:
        if output.is_tree:
            os.makedirs(output.dest, exist_ok=True)
            unpack(Pieces(response.pieces()), output.dest, "", "")
        elif output.to_stdout:
            sys.stdout.flush()
            response.copy_to(1)
        else:
            with open(output.dest, "wb") as file:
                response.copy_to(file.fileno())
    except OSError as error:
        raise CliError(f"open {output.dest}: {(error.strerror or str(error)).lower()}") from None
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)


def push(session: Session, tags: list[str], outputs: list[Output], out: TextIO) -> dict[str, Any]:
    """Push the names, if that was asked for, and tell it on `out`; what the engine tells of the last one."""
    told: dict[str, Any] = {}
    if not any(output.is_pushed for output in outputs):
        return told
    for tag in dict.fromkeys(tags):
        name = parse_name(tag, default_tag=True)
        path = f"/images/{quote(name.full, '/:')}/push"
        response = session.engine.open("POST", path, {"tag": name.tag}, headers=registry_header(session, name))
        view = ProgressView(out, out.isatty())
        view.show_all(response.messages())
        session.engine.done(response)
        told = next((each for each in view.auxiliary if isinstance(each, dict) and each.get("Digest")), told)
    return told


def metadata_of(made: dict[str, Any], tags: list[str], outputs: list[Output], pushed: dict[str, Any]) -> dict[str, Any]:
    """What `--metadata-file` gets, by buildx's keys. As `docker buildx build --metadata-file`."""
    told = made.get("Provenance") or {}
    names = dict.fromkeys([*tags, *(name for output in outputs for name in output.names)])
    found: dict[str, Any] = {
        (f"buildx.build.provenance/{platform}" if len(told) > 1 else "buildx.build.provenance"): value
        for platform, value in told.items()
    }
    found["containerimage.config.digest"] = made.get("ID", "")
    if descriptor := made.get("Descriptor"):
        found["containerimage.descriptor"] = descriptor
    found["containerimage.digest"] = pushed.get("Digest") or (descriptor or {}).get("digest") or made.get("ID", "")
    if names:
        found["image.name"] = ",".join(str(parse_name(name, default_tag=True)) for name in names)
    return found


def _csv(text: str) -> list[str]:
    """The fields of one line of comma-separated values: quotes hold commas together."""
    if '"' not in text:
        return text.split(",")
    import csv

    return next(csv.reader([text]))
