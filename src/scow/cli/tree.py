"""The tree of commands: every path by which a command can be called, its module, and one line about it.

The modules are imported when their command is called: the tree itself is a table of words.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scow.cli.command import Command

# (paths: the first is the full one, module in scow.cli.commands, key in its COMMANDS, about)
ENTRIES: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (
        ("container attach", "attach"),
        "attach",
        "attach",
        "Attach local standard input, output, and error streams to a running container",
    ),
    (
        ("container commit", "commit"),
        "making",
        "commit",
        "Create a new image from a container's changes",
    ),
    (("image build", "build", "builder build"), "build", "build", "Build an image from a Dockerfile"),
    (("builder prune",), "build", "prune", "Remove build cache"),
    (("container cp", "cp"), "copy", "cp", "Copy files/folders between a container and the local filesystem"),
    (("container create", "create"), "run", "create", "Create a new container"),
    (("container diff", "diff"), "copy", "diff", "Inspect changes to files or directories on a container's filesystem"),
    (("container exec", "exec"), "exec", "exec", "Execute a command in a running container"),
    (("container export", "export"), "copy", "export", "Export a container's filesystem as a tar archive"),
    (("container inspect",), "inspect", "container", "Display detailed information on one or more containers"),
    (("container kill", "kill"), "lifecycle", "kill", "Kill one or more running containers"),
    (("container logs", "logs"), "logs", "logs", "Fetch the logs of a container"),
    (("container ls", "container list", "container ps", "ps"), "ps", "ps", "List containers"),
    (("container pause", "pause"), "lifecycle", "pause", "Pause all processes within one or more containers"),
    (("container port", "port"), "lifecycle", "port", "List port mappings or a specific mapping for the container"),
    (("container prune",), "prune", "container", "Remove all stopped containers"),
    (("container rename", "rename"), "lifecycle", "rename", "Rename a container"),
    (("container restart", "restart"), "lifecycle", "restart", "Restart one or more containers"),
    (("container rm", "container remove", "rm"), "lifecycle", "rm", "Remove one or more containers"),
    (("container run", "run"), "run", "run", "Create and run a new container from an image"),
    (("container start", "start"), "attach", "start", "Start one or more stopped containers"),
    (("container stats", "stats"), "stats", "stats", "Display a live stream of container(s) resource usage statistics"),
    (("container stop", "stop"), "lifecycle", "stop", "Stop one or more running containers"),
    (("container top", "top"), "lifecycle", "top", "Display the running processes of a container"),
    (("container unpause", "unpause"), "lifecycle", "unpause", "Unpause all processes within one or more containers"),
    (("container update", "update"), "update", "update", "Update configuration of one or more containers"),
    (
        ("container wait", "wait"),
        "lifecycle",
        "wait",
        "Block until one or more containers stop, then print their exit codes",
    ),
    (("context create",), "context_changes", "create", "Create a context"),
    (
        ("context export",),
        "context_changes",
        "export",
        "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    ),
    (("context import",), "context_changes", "import", "Import a context from a tar or zip file"),
    (("context rm", "context remove"), "context_changes", "rm", "Remove one or more contexts"),
    (("context update",), "context_changes", "update", "Update a context"),
    (("context inspect",), "context", "inspect", "Display detailed information on one or more contexts"),
    (("context ls", "context list"), "context", "ls", "List contexts"),
    (("context show",), "context", "show", "Print the name of the current context"),
    (("context use",), "context", "use", "Set the current context"),
    (("image diff",), "explore", "diff", "Compare two images, file by file"),
    (("image explore",), "explore", "explore", "Show what each layer of an image changes and wastes"),
    (("image history", "history"), "history", "history", "Show the history of an image"),
    (
        ("image import", "import"),
        "making",
        "import",
        "Import the contents from a tarball to create a filesystem image",
    ),
    (("image inspect",), "inspect", "image", "Display detailed information on one or more images"),
    (("image load", "load"), "archive", "load", "Load an image from a tar archive or STDIN"),
    (("manifest annotate",), "manifest_changes", "annotate", "Add additional information to a local image manifest"),
    (
        ("manifest create",),
        "manifest_changes",
        "create",
        "Create a local manifest list for annotating and pushing to a registry",
    ),
    (("manifest push",), "manifest_changes", "push", "Push a manifest list to a repository"),
    (("manifest rm",), "manifest_changes", "rm", "Delete one or more manifest lists from local storage"),
    (("manifest inspect",), "manifest", "inspect", "Display an image manifest, or manifest list"),
    (("search",), "search", "search", "Search Docker Hub, or a registry, for images"),
    (("image ls", "image list", "images"), "images", "images", "List images"),
    (("image prune",), "prune", "image", "Remove unused images"),
    (("image pull", "pull"), "transfer", "pull", "Download an image from a registry"),
    (("image push", "push"), "transfer", "push", "Upload an image to a registry"),
    (("image rm", "image remove", "rmi"), "images", "rmi", "Remove one or more images"),
    (
        ("image save", "save"),
        "archive",
        "save",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
    ),
    (("image tag", "tag"), "images", "tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    (("network connect",), "network_changes", "connect", "Connect a container to a network"),
    (("network create",), "network_changes", "create", "Create a network"),
    (("network disconnect",), "network_changes", "disconnect", "Disconnect a container from a network"),
    (("network inspect",), "inspect", "network", "Display detailed information on one or more networks"),
    (("network ls", "network list"), "network", "ls", "List networks"),
    (("network prune",), "network_changes", "prune", "Remove all unused networks"),
    (("network reload",), "network_changes", "reload", "Write the firewall's rules again"),
    (("network rm", "network remove"), "network_changes", "rm", "Remove one or more networks"),
    (("system check",), "check", "check", "Check what this machine offers, and what the engine keeps"),
    (("system df",), "df", "df", "Show disk usage"),
    (("system dial-stdio",), "system", "dial-stdio", ""),
    (("system events", "events"), "events", "events", "Get real time events from the server"),
    (("system prune",), "prune", "system", "Remove unused data"),
    (("system info", "info"), "info", "info", "Display system-wide information"),
    (("volume create",), "volume", "create", "Create a volume"),
    (("volume export",), "volume_archives", "export", "Export a volume's content as a tar archive"),
    (("volume import",), "volume_archives", "import", "Import a tar archive into a volume"),
    (("volume inspect",), "inspect", "volume", "Display detailed information on one or more volumes"),
    (("volume ls", "volume list"), "volume", "ls", "List volumes"),
    (("volume prune",), "prune", "volume", "Remove unused local volumes"),
    (("volume rm", "volume remove"), "volume", "rm", "Remove one or more volumes"),
    (("inspect",), "inspect", "inspect", "Return low-level information on Docker objects"),
    (("login",), "login", "login", "Authenticate to a registry"),
    (("logout",), "login", "logout", "Log out from a registry"),
    (("version",), "version", "version", "Show the version of client and engine"),
)

GROUPS = {
    "builder": "Manage builds",
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "manifest": "Manage manifests and manifest lists in registries",
    "network": "Manage networks",
    "registry": "Serve and manage an image registry",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}

COMMON = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "version", "info")


def find(words: tuple[str, ...]) -> tuple[tuple[str, ...], str, str, str] | None:
    """Find the entry whose path is exactly `words`."""
    path = " ".join(words)
    for entry in ENTRIES:
        if path in entry[0]:
            return entry
    return None


def load(module: str, key: str) -> Command:
    """Import a command's module and return the command."""
    loaded = __import__(f"scow.cli.commands.{module}", fromlist=("COMMANDS",))
    command: Command = loaded.COMMANDS[key]
    return command


def _rows(names: list[tuple[str, str]]) -> list[str]:
    width = max(11, max(len(name) for name, _ in names))
    return [f"  {name:<{width}} {about}" for name, about in names]


def group_help(program: str, group: str) -> str:
    """The help text of a management command."""
    names = []
    for paths, _, _, about in ENTRIES:
        here = next((path for path in paths if path.startswith(group + " ")), "")
        if about and here:
            names.append((here.split(" ", 1)[1], about))
    lines = [f"Usage:  {program} {group} COMMAND", "", GROUPS[group], "", "Commands:", *_rows(sorted(names)), ""]
    return "\n".join([*lines, f"Run '{program} {group} COMMAND --help' for more information on a command."])


def root_help(program: str, global_flags: list[str]) -> str:
    """The help text of the client itself; `global_flags` are its described options."""
    abouts = {path: entry[3] for entry in ENTRIES for path in entry[0] if " " not in path}
    lines = [f"Usage:  {program} [OPTIONS] COMMAND", "", "A container platform: images, a registry and containers", ""]
    lines += ["Common Commands:", *_rows([(name, abouts[name]) for name in COMMON]), ""]
    lines += ["Management Commands:", *_rows(sorted(GROUPS.items())), ""]
    rest = sorted((name, about) for name, about in abouts.items() if name not in COMMON)
    lines += ["Commands:", *_rows(rest), "", "Global Options:", *global_flags, ""]
    return "\n".join([*lines, f"Run '{program} COMMAND --help' for more information on a command."])
