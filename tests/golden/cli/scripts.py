"""What the scripted engine of the golden cases answers."""

from __future__ import annotations

from typing import Any

HELLO_ID = "4bd78111b6914a99dbc560e6a20eab57ff6655aea4a80c50b0c5491968cbc2e6"
DIGEST = "sha256:d1a8d0a4eeb63aff09f5f34d4d80505e0ba81905f36158cc3970d8e07179e59e"
IMAGE_ID = "sha256:74cc54e27dc41bb10dc4b2226072d469509f2f22f1a3ce74f4a59661a1d44602"


def manifest(architecture: str, digit: str, content: int, containers: list[str]) -> dict[str, Any]:
    """One platform's manifest of an image; it is here if it has content."""
    digest = f"sha256:{digit * 64}"
    platform = {"architecture": architecture, "os": "linux"}
    return {
        "ID": digest,
        "Descriptor": {"digest": digest, "size": 401, "platform": platform},
        "Available": bool(content),
        "Size": {"Total": 7 * content, "Content": content},
        "Kind": "image",
        "ImageData": {"Platform": platform, "Containers": containers, "Size": {"Unpacked": 6 * content}},
    }


def install(fake: Any, module: Any) -> None:
    """Give `fake` the routes that all cases share; `module` is fake_engine."""
    reply, ago = module.Reply, module.ago
    hello = {
        "Id": HELLO_ID,
        "Names": ["/quirky_hopper"],
        "Image": "hello-world",
        "ImageID": IMAGE_ID,
        "Command": "/hello",
        "Created": ago(125),
        "Ports": [],
        "Labels": {"tier": "demo"},
        "State": "exited",
        "Status": "Exited (0) 2 minutes ago",
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Networks": {"bridge": {}}},
        "Mounts": [],
    }
    web = {
        **hello,
        "Id": "a" * 64,
        "Names": ["/web", "/other/alias"],
        "Image": "nginx:1.27",
        "Command": "/docker-entrypoint.sh nginx -g 'daemon off;'",
        "Created": ago(3700),
        "Ports": [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 443, "Type": "tcp"},
        ],
        "Labels": {},
        "State": "running",
        "Status": "Up About an hour",
    }
    fake.on("GET /containers/json", reply(value=[hello, web]))
    images = [
        {
            "Id": IMAGE_ID,
            "RepoTags": ["hello-world:latest", "hello-world:v1"],
            "RepoDigests": [f"hello-world@{DIGEST}"],
            "Created": ago(86400 * 100),
            "Size": 10072,
            "SharedSize": -1,
            "Containers": -1,
            "Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": DIGEST, "size": 506},
            "Manifests": [manifest("amd64", "1", 1579, ["c" * 64]), manifest("arm64", "2", 0, [])],
        },
        {
            "Id": "sha256:" + "b" * 64,
            "RepoTags": None,
            "RepoDigests": [],
            "Created": ago(86400 * 3 + 60),
            "Size": 78116352,
        },
    ]
    fake.on("GET /images/json", reply(value=images))
    missing = reply(404, {"message": "No such image: hello-world:latest"})
    fake.on("POST /containers/create", missing, reply(201, {"Id": HELLO_ID, "Warnings": ["a warning"]}))
    fake.on(
        "POST /images/create",
        reply(
            lines=[
                {"status": "Pulling from library/hello-world", "id": "latest"},
                {"status": "Pulling fs layer", "progressDetail": {}, "id": "e6590344b1a5"},
                {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "e6590344b1a5"},
                {"status": "Download complete", "progressDetail": {}, "id": "e6590344b1a5"},
                {"status": "Extracting", "progressDetail": {"current": 2, "total": 2}, "id": "e6590344b1a5"},
                {"status": "Pull complete", "progressDetail": {}, "id": "e6590344b1a5"},
                {"status": f"Digest: {DIGEST}"},
                {"status": "Status: Downloaded newer image for hello-world:latest"},
            ]
        ),
    )
    base = f"/containers/{HELLO_ID}"
    fake.on(f"POST {base}/attach", reply(frames=[(1, "Hello from Scow!\n"), (2, "a word on stderr\n")]))
    fake.on(f"POST {base}/wait", reply(value={"StatusCode": 3}, after_start=True))
    fake.on(f"POST {base}/start", reply(204))
    fake.on("POST /containers/web/stop", reply(204))
    fake.on("POST /containers/gone/stop", reply(404, {"message": "No such container: gone"}))
    broken = 'OCI runtime create failed: exec: "nope": executable file not found in $PATH: unknown'
    fake.on("POST /containers/web/start", reply(400, {"message": broken}))
    fake.on(
        "GET /containers/web/json", reply(value={"Id": "a" * 64, "Name": "/web", "Size": 1.0, "Args": [], "X": "<&>"})
    )
    fake.on("GET /images/web/json", reply(404, {"message": "No such image: web"}))
    for kind, path in (
        ("container", "containers/gone/json"),
        ("image", "images/gone/json"),
        ("network", "networks/gone"),
        ("volume", "volumes/gone"),
    ):
        fake.on(f"GET /{path}", reply(404, {"message": f"No such {kind}: gone"}))
    fake.on("GET /info", reply(value={"Swarm": {"LocalNodeState": "inactive"}}))
    fake.on("GET /volumes", reply(value={"Volumes": [{"Name": name, "Driver": "local"} for name in ("v10", "v2")]}))
    net = {"Id": "c" * 64, "Name": "bridge", "Driver": "bridge", "Scope": "local"}
    fake.on("GET /networks", reply(value=[{**net, "Name": "none", "Driver": "null"}, net]))
