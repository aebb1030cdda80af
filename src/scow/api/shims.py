"""Version gates: how replies and requests differ for clients of older API versions.

The engine speaks the newest version only. For each endpoint a table says what to change for a client below a given
version; a reply for the newest version, the common case, is encoded without looking at any of it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web
from msgspec.structs import replace

from scow.api.call import json_bytes
from scow.api.versions import ApiVersion
from scow.errors import InvalidArgument
from scow.wire.container import ContainerConfig, CreateRequest
from scow.wire.exec import ExecCreateRequest, ExecStartRequest
from scow.wire.host_config import HostConfig, Mount
from scow.wire.message import encode, to_plain

Change = Callable[[dict[str, Any]], None]
Gate = tuple[ApiVersion, Change]


def respond(endpoint: str, version: ApiVersion, message: Any, status: int = 200) -> web.Response:
    """Answer with a message, or a list of them, in the shape that `version` had."""
    changes = [change for below, change in GATES.get(endpoint, ()) if version < below]
    if not changes:
        return json_bytes(encode(message), status)
    plain = to_plain(message)
    for item in plain if isinstance(plain, list) else [plain]:
        for change in changes:
            change(item)
    return json_bytes(encode(plain), status)


def _without(*names: str) -> Change:
    def change(item: dict[str, Any]) -> None:
        for name in names:
            item.pop(name, None)

    return change


def _summary_annotations(item: dict[str, Any]) -> None:
    item.get("HostConfig", {}).pop("Annotations", None)


def _short_id_among_aliases(item: dict[str, Any]) -> None:
    own = [item["Id"][:12]]
    hostname = item["Config"].get("Hostname")
    if hostname and hostname not in own:
        own.append(hostname)
    for name, endpoint in item["NetworkSettings"]["Networks"].items():
        if name not in ("bridge", "host", "none", "default") and not name.startswith("container:"):
            aliases = list(endpoint.get("Aliases") or [])
            endpoint["Aliases"] = aliases + [alias for alias in own if alias not in aliases]


def _config_mac_address(item: dict[str, Any]) -> None:
    mode = item["HostConfig"].get("NetworkMode", "")
    endpoint = item["NetworkSettings"]["Networks"].get("bridge" if mode == "default" else mode)
    if endpoint and endpoint.get("MacAddress"):
        item["Config"].setdefault("MacAddress", endpoint["MacAddress"])


def _virtual_size(item: dict[str, Any]) -> None:
    item["VirtualSize"] = item["Size"]


def _none_for_untagged(item: dict[str, Any]) -> None:
    if not item["RepoTags"] and not item["RepoDigests"]:
        item["RepoTags"] = ["<none>:<none>"]
        item["RepoDigests"] = ["<none>@<none>"]


def _image_created(item: dict[str, Any]) -> None:
    item.setdefault("Created", "0001-01-01T00:00:00Z")


def _image_container(item: dict[str, Any]) -> None:
    item["Container"] = ""
    # docker-compose 1.x looks here for volumes whose content goes over to a container's successor.
    volumes = (item.get("Config") or {}).get("Volumes")
    item["ContainerConfig"] = {**to_plain(ContainerConfig()), "Volumes": volumes}


def _image_config_of_a_container(item: dict[str, Any]) -> None:
    config = item.get("Config")
    if config is not None:
        item["Config"] = {**to_plain(ContainerConfig()), **config}


def _security_option_names(item: dict[str, Any]) -> None:
    item["ExecutionDriver"] = "<not supported>"
    item["SecurityOptions"] = [
        part.removeprefix("name=")
        for option in item.get("SecurityOptions") or []
        for part in option.split(",")
        if part.startswith("name=") or "=" not in part
    ]


def _unknown_system(item: dict[str, Any]) -> None:
    for name in ("KernelVersion", "OperatingSystem"):
        item[name] = item.get(name) or "<unknown>"


def _runtime_status(item: dict[str, Any]) -> None:
    for runtime in (item.get("Runtimes") or {}).values():
        runtime.pop("status", None)


def _nondistributable(item: dict[str, Any]) -> None:
    registry = item.setdefault("RegistryConfig", {})
    registry["AllowNondistributableArtifactsCIDRs"] = []
    registry["AllowNondistributableArtifactsHostnames"] = []


def _expected_commits(item: dict[str, Any]) -> None:
    for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
        item[name]["Expected"] = item[name]["ID"]


def _bridge_filter(item: dict[str, Any]) -> None:
    item["BridgeNfIptables"] = False
    item["BridgeNfIp6tables"] = False


def _kernel_memory(item: dict[str, Any]) -> None:
    item["KernelMemory"] = False


def _usage_virtual_sizes(item: dict[str, Any]) -> None:
    for image in item.get("Images") or []:
        _virtual_size(image)


def _builder_size(item: dict[str, Any]) -> None:
    item["BuilderSize"] = sum(record.get("Size", 0) for record in item.get("BuildCache") or [])


GATES: Final[Mapping[str, tuple[Gate, ...]]] = {
    "containers.list": (((1, 46), _summary_annotations), ((1, 48), _without("ImageManifestDescriptor"))),
    "containers.inspect": (
        ((1, 44), _config_mac_address),
        ((1, 45), _short_id_among_aliases),
        ((1, 48), _without("ImageManifestDescriptor")),
    ),
    "images.list": (
        ((1, 43), _none_for_untagged),
        ((1, 44), _virtual_size),
        ((1, 47), _without("Manifests")),
        ((1, 48), _without("Descriptor")),
    ),
    "images.inspect": (
        ((1, 44), _virtual_size),
        ((1, 44), _image_created),
        ((1, 45), _image_container),
        ((1, 48), _without("Descriptor", "Manifests")),
        ((1, 50), _image_config_of_a_container),
    ),
    "networks.list": (((1, 48), _without("EnableIPv4")),),
    "networks.inspect": (((1, 48), _without("EnableIPv4")),),
    "system.info": (
        ((1, 25), _security_option_names),
        ((1, 39), _unknown_system),
        ((1, 42), _kernel_memory),
        ((1, 44), _runtime_status),
        ((1, 46), _without("Containerd")),
        ((1, 47), _nondistributable),
        ((1, 49), _without("FirewallBackend")),
        ((1, 49), _expected_commits),
        ((1, 50), _without("DiscoveredDevices")),
        ((1, 50), _bridge_filter),
    ),
    "system.df": (((1, 42), _builder_size), ((1, 44), _usage_virtual_sizes)),
}


# --- requests ---------------------------------------------------------------------------------------------------------


def upgrade_create(request: CreateRequest, version: ApiVersion) -> CreateRequest:
    """Give a creation the meaning that it had in `version`. Raises InvalidArgument for what it could not express."""
    host = request.host_config or HostConfig()
    if version < (1, 25):
        host = replace(host, auto_remove=False)  # removing was the client's job then
    if version < (1, 40):
        host = replace(host, kernel_memory_tcp=0, ipc_mode=host.ipc_mode or "shareable")
    host = replace(host, console_size=[0, 0]) if version < (1, 42) else replace(host, kernel_memory=0)
    if version < (1, 43):
        host = replace(host, annotations=None)
    if host.mounts:
        host = replace(host, mounts=[_upgrade_mount(mount, version) for mount in host.mounts])
    if host.pids_limit is not None and host.pids_limit <= 0:
        host = replace(host, pids_limit=None)
    request = replace(request, host_config=host)
    if version < (1, 44):
        if request.healthcheck is not None:
            request = replace(request, healthcheck=replace(request.healthcheck, start_interval=0))
        networking = request.networking_config
        if networking is not None and networking.endpoints_config and len(networking.endpoints_config) > 1:
            names = ", ".join(networking.endpoints_config)
            raise InvalidArgument(f"Container cannot be created with multiple network endpoints: {names}")
    return request


def _upgrade_mount(mount: Mount, version: ApiVersion) -> Mount:
    if version < (1, 40) and mount.bind_options is not None:
        mount = replace(mount, bind_options=replace(mount.bind_options, non_recursive=False))
    if version < (1, 42):
        if mount.bind_options is not None:
            mount = replace(mount, bind_options=replace(mount.bind_options, create_mountpoint=False))
        if mount.type != "volume":
            mount = replace(mount, volume_options=None)
        if mount.type != "tmpfs":
            mount = replace(mount, tmpfs_options=None)
    else:
        for name, options, kind in (
            ("VolumeOptions", mount.volume_options, "volume"),
            ("BindOptions", mount.bind_options, "bind"),
            ("TmpfsOptions", mount.tmpfs_options, "tmpfs"),
        ):
            if options is not None and mount.type != kind:
                raise InvalidArgument(f'{name} must not be specified on mount type "{mount.type}"')
    if version < (1, 44) and mount.type == "bind" and mount.bind_options is not None:
        if mount.bind_options.read_only_force_recursive:
            raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
        mount = replace(mount, bind_options=replace(mount.bind_options, read_only_non_recursive=True))
    if version < (1, 45) and mount.volume_options is not None and mount.volume_options.subpath:
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 48) and mount.type == "image":
        raise InvalidArgument(f'invalid mount config for type "{mount.type}": mount type unknown')
    return mount


def upgrade_exec_create(request: ExecCreateRequest, version: ApiVersion) -> ExecCreateRequest:
    """Give an exec's creation the meaning that it had in `version`."""
    return replace(request, console_size=None) if version < (1, 42) else request


def upgrade_exec_start(request: ExecStartRequest, version: ApiVersion) -> ExecStartRequest:
    """Give an exec's start the meaning that it had in `version`."""
    return replace(request, console_size=None) if version < (1, 42) or not request.tty else request
