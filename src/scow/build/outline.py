"""What a Dockerfile offers those who build it: its targets, and the arguments, secrets and agents that one takes."""

from collections.abc import Iterator, Sequence

import msgspec

from scow.build import instructions as kinds
from scow.build.arguments import Globals, Scope
from scow.build.dockerfile import Dockerfile, Stage
from scow.build.instructions import Instruction
from scow.build.mounts import Mount
from scow.build.plan import Plan


class Target(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A stage that can be built by its name; the default one may have none."""

    name: str = ""
    description: str = ""
    default: bool = False
    base: str = ""


class Argument(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A build argument and the value that it has."""

    name: str
    description: str = ""
    value: str = ""


class Access(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A secret, or an SSH agent."""

    name: str
    required: bool = False


class Outline(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a target takes, with the stages that it needs."""

    name: str = ""
    description: str = ""
    args: tuple[Argument, ...] = ()
    secrets: tuple[Access, ...] = ()
    ssh: tuple[Access, ...] = ()


def targets_of(file: Dockerfile) -> list[Target]:
    """The stages that have a name, and the last one."""
    last = len(file.stages) - 1
    return [
        Target(stage.name, _described(stage.base, [stage.name]), stage.index == last, stage.base.image)
        for stage in file.stages
        if stage.name or stage.index == last
    ]


def outline_of(file: Dockerfile, plan: Plan, scope: Globals) -> Outline:
    """What the plan's target takes. Raises DockerfileError."""
    stages = [file.stages[each.index] for each in plan.stages]
    found: dict[str, Argument] = {}
    for each in file.global_args:
        for declared in each.arguments:
            name = declared.name
            found[name] = Argument(name, _described(each, [name]), scope.values.get(name, ""))
    secrets: dict[str, Access] = {}
    agents: dict[str, Access] = {}
    for stage in stages:
        for one in _arguments(stage, scope):
            before = found.get(one.name, one)
            found[one.name] = Argument(one.name, one.description or before.description, one.value or before.value)
        for mount in _mounts(stage, scope):
            into = {"secret": secrets, "ssh": agents}.get(mount.type)
            if into is not None:
                into[mount.id] = Access(mount.id, mount.required or (mount.id in into and into[mount.id].required))
    target = file.stages[plan.target]
    return Outline(
        name=target.name or "default",
        description=_described(target.base, [target.name]),
        args=tuple(found.values()),
        secrets=tuple(secrets.values()),
        ssh=tuple(agents.values()),
    )


def _arguments(stage: Stage, globals: Globals) -> Iterator[Argument]:
    scope = Scope(globals=globals)
    for one in stage.instructions:
        if isinstance(one, kinds.Arg):
            scope = scope.declared(one)
            for each in one.arguments:
                yield Argument(each.name, _described(one, [each.name]), scope.arguments.get(each.name) or "")


def _mounts(stage: Stage, globals: Globals) -> Iterator[Mount]:
    scope = Scope(globals=globals)
    for one in stage.instructions:
        if isinstance(one, kinds.Arg):
            scope = scope.declared(one)
        elif isinstance(one, kinds.Run):
            yield from scope.mounts_of(one)


def _described(one: Instruction, names: Sequence[str]) -> str:
    """What the comment right above says of one of these names: `# name what it is`."""
    word, _, rest = (one.comments[-1] if one.comments else "").partition(" ")
    return rest.strip() if word in names else ""


def targets_text(targets: Sequence[Target]) -> str:
    """A table, as docker's client shows it."""
    names = [" ".join(word for word in (each.name, "(default)" * each.default) if word) for each in targets]
    rows = [(name, each.description) for name, each in zip(names, targets, strict=True)]
    return _table(("TARGET", "DESCRIPTION"), rows)


def outline_text(outline: Outline) -> str:
    """Tables, as docker's client shows them."""
    parts = [f"TARGET:      {outline.name}\n" + f"DESCRIPTION: {outline.description}\n" * bool(outline.description)]
    if outline.args:
        rows = [(each.name, each.value, each.description) for each in outline.args]
        parts.append(_table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows))
    for title, access in (("SECRET", outline.secrets), ("SSH", outline.ssh)):
        if access:
            parts.append(_table((title, "REQUIRED"), [(each.name, "true" * each.required) for each in access]))
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) + 3 for column in range(len(head))]
    padded = (
        "".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
    return "\n".join(padded) + "\n"
