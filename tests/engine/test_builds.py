"""Builds through the API, as clients ask for them."""

import base64
import concurrent.futures
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from support.builds import Files, build, context, error_of, image_of, post, text
from support.calls import eventually
from support.daemon import Daemon, Registry, UnixConnection, folder
from support.machine import traces


@pytest.fixture(autouse=True)
def _forgotten_images(engine: Daemon) -> Iterator[None]:
    yield
    engine.clean()
    engine.request("POST", "/images/prune?filters=" + quote('{"dangling":["true"]}'))


def test_an_image_is_what_its_dockerfile_says(engine: Daemon) -> None:
    messages = build(
        engine,
        """
        FROM busybox AS made
        ARG WHO=nobody
        ENV GREETING="hello there"
        RUN echo "$GREETING $WHO" > /made
        FROM busybox
        COPY --from=made /made /a/
        COPY b /a/c
        WORKDIR /a
        LABEL one=1
        CMD ["cat", "made", "c"]
        """,
        {"b": b"bee\n"},
        t=["built:1", "built:2"],
        buildargs=json.dumps({"WHO": "world"}),
        labels=json.dumps({"two": "2"}),
    )
    inspected = engine.json("GET", f"/images/{image_of(messages)}/json")
    assert inspected["RepoTags"] == ["built:1", "built:2"]
    assert inspected["Config"]["Labels"] == {"one": "1", "two": "2"}
    assert inspected["Config"]["WorkingDir"] == "/a"
    assert engine.docker("run", "--rm", "built:1").stdout == "hello there world\nbee\n"
    said = text(messages)
    assert said.startswith("Step 1/11 : FROM busybox AS made\n ---> ")
    assert "Step 4/11 : RUN echo" in said
    short = image_of(messages)[7:19]
    assert said.endswith(f"Successfully built {short}\nSuccessfully tagged built:1\nSuccessfully tagged built:2\n")


def test_a_failing_command_is_told_with_its_code_and_leaves_no_image(engine: Daemon) -> None:
    before = engine.json("GET", "/images/json?all=1")
    messages = build(engine, "FROM busybox\nRUN echo seen; exit 3\nRUN echo unseen")
    words = "The command '/bin/sh -c echo seen; exit 3' returned a non-zero code: 3"
    assert messages[-1] == {"errorDetail": {"code": 3, "message": words}, "error": words}
    assert "seen\n" in text(messages)
    assert "unseen" not in text(messages).replace("RUN echo unseen", "")
    assert engine.json("GET", "/images/json?all=1") == before
    assert engine.json("GET", "/containers/json?all=1") == []


def test_steps_come_from_the_cache_until_what_they_use_changes(engine: Daemon) -> None:
    dockerfile = "FROM busybox\nARG A\nCOPY x /x\nRUN head -c 9 /dev/urandom > /r"
    first = image_of(build(engine, dockerfile, {"x": b"1"}))
    again = build(engine, dockerfile, {"x": b"1", "unused": b"?"})
    assert image_of(again) == first
    assert text(again).count("Using cache") == 3
    other = build(engine, dockerfile, {"x": b"2"})
    assert image_of(other) != first
    assert text(other).count("Using cache") == 1
    assert text(build(engine, dockerfile, {"x": b"1"}, buildargs='{"A":"1"}')).count("Using cache") == 1
    assert image_of(build(engine, dockerfile, {"x": b"1"}, nocache=1)) != first


def test_labels_of_the_caller_are_steps_of_their_own(engine: Daemon) -> None:
    messages = build(engine, "FROM busybox\nLABEL a=1", labels='{"b":"3","a":"2"}')
    assert "Step 3/4 : LABEL a=2\n" in text(messages)
    assert "Step 4/4 : LABEL b=3\n" in text(messages)


def test_an_archive_replaces_what_is_in_its_way(engine: Daemon) -> None:
    dockerfile = "FROM busybox\nRUN mkdir -p /d/x && ln -s /tmp /d/y\nADD a.tar /d/\nRUN cat /d/x /d/y/z"
    messages = build(engine, dockerfile, {"a.tar": context({"x": b"file\n", "y/z": b"below\n"})})
    assert "file\nbelow\n" in text(messages)


def test_a_stage_nobody_needs_does_not_run(engine: Daemon) -> None:
    messages = build(
        engine, "FROM busybox AS one\nRUN exit 1\nFROM busybox AS two\nRUN true\nFROM two\nRUN exit 2", target="two"
    )
    assert "Step 2/2 : RUN true" in text(messages)


def test_builds_at_once_share_the_work_of_a_step(engine: Daemon) -> None:
    dockerfile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id; sleep 0.5\nRUN cat /id"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: image_of(build(engine, dockerfile)), range(4)))
    assert len(set(done)) == 1


def test_the_same_inputs_give_the_same_image_with_a_source_date(engine: Daemon) -> None:
    dockerfile = "FROM busybox\nCOPY x /d/x\nRUN echo 1 > /f; mkdir /e\nWORKDIR /w"
    options = {"nocache": 1, "buildargs": '{"SOURCE_DATE_EPOCH":"1500000000"}'}
    first = build(engine, dockerfile, {"x": b"1"}, **options)
    assert image_of(build(engine, dockerfile, {"x": b"1"}, **options)) == image_of(first)
    assert engine.json("GET", f"/images/{image_of(first)}/json")["Created"] == "2017-07-14T02:40:00Z"


def test_mounts_leave_nothing_in_the_layer(engine: Daemon) -> None:
    messages = build(
        engine,
        """
        FROM busybox AS tools
        RUN echo tool > /tool
        FROM busybox
        RUN --mount=type=cache,target=/cache,id=t1 --mount=type=tmpfs,target=/tmpfs \\
            --mount=target=/ctx,source=sub --mount=from=tools,source=/tool,target=/in/tool,rw \\
            cat /ctx/x /in/tool && echo one >> /cache/log && echo 1 > /tmpfs/x && echo w > /in/tool
        RUN --mount=type=cache,target=/cache,id=t1 echo two >> /cache/log; cat /cache/log
        RUN ls / /in
        """,
        {"sub/x": b"ctx\n"},
    )
    said = text(messages)
    assert "ctx\ntool\n" in said
    assert "one\ntwo\n" in said
    assert "tool" not in said.rpartition("ls / /in")[2]
    for name in ("cache", "tmpfs", "ctx"):
        assert f"\n{name}\n" not in said.rpartition("ls / /in")[2]


def test_secrets_are_seen_by_their_step_only(engine: Daemon) -> None:
    secrets = {"tok": base64.b64encode(b"s3cr3t-value").decode()}
    session = engine.json("POST", "/scow/build/sessions", {"Secrets": secrets})["ID"]
    dockerfile = (
        "FROM busybox\nRUN --mount=type=secret,id=tok wc -c < /run/secrets/tok; echo ${V:-none}\n"
        'RUN --mount=type=secret,id=tok,env=V [ "$V" = s3cr3t-value ]\n'
        "RUN --mount=type=secret,id=other ls /run/secrets 2>&1 || true\n"
        "RUN --mount=type=secret,id=other,required true"
    )
    messages = build(engine, dockerfile, session=session, nocache=1)
    assert "12\nnone\n" in text(messages)
    assert 'secret "other" not found' in error_of(messages)
    assert "s3cr3t-value" not in json.dumps(messages).replace('[ \\"$V\\" = s3cr3t-value ]', "").replace(
        "s3cr3t-value ]", ""
    )
    for path in (engine.folder / "data").rglob("*"):
        if path.is_file() and "build" in path.parts:
            assert b"s3cr3t" not in path.read_bytes(), path
    status, data = post(engine, context({"Dockerfile": "FROM busybox"}), session=session)
    assert (status, b"no such build session" in data) == (400, True)


def test_the_ignore_file_keeps_files_from_copies(engine: Daemon) -> None:
    files: Files = {".dockerignore": "*.log\n!keep.log\nsub", "a": b"", "b.log": b"", "keep.log": b"", "sub/x": b""}
    messages = build(engine, "FROM busybox\nCOPY . /all\nRUN cd /all && find . | sort", files)
    assert ".\n./.dockerignore\n./Dockerfile\n./a\n./keep.log\n" in text(messages)
    assert "not found" in error_of(build(engine, "FROM busybox\nCOPY sub/x /", files))


def test_exclusions_are_relative_to_each_source(engine: Daemon) -> None:
    names = ("home.txt", "home.md", "d/a.log", "d/e/b.log", "d/k", "d/e/c.txt")
    dockerfile = """
    FROM busybox
    COPY --exclude=*.txt hom* /files/
    COPY --exclude=*.log d /one/
    COPY --exclude=**/*.log --exclude=!e/b.log d /most/
    COPY --exclude=e d /flat/
    COPY --parents --exclude=d/e d/*/* d/k /whole/
    RUN cd /; find files one most flat whole -type f | sort
    """
    said = text(build(engine, dockerfile, dict.fromkeys(names, b"")))
    assert [line for line in said.splitlines() if re.fullmatch(r"\w+(/[\w.]+)+", line)] == [
        *("files/home.md", "flat/a.log", "flat/k", "most/e/b.log", "most/e/c.txt", "most/k"),
        *("one/e/b.log", "one/e/c.txt", "one/k", "whole/d/k"),
    ]


def test_owners_and_modes(engine: Daemon) -> None:
    messages = build(
        engine,
        """
        FROM busybox
        COPY --chown=app:extra --chmod=u=rw,go=r f /f
        COPY --chown=55 f /g
        ADD --chown=1:2 a.tar /t/
        COPY <<-end /h
        \ttext of $HOSTNAME_NOT_SET
        end
        RUN stat -c '%n %u:%g %a' /f /g /t/in; cat /h
        """.replace("        ", ""),
        {"f": b"", "a.tar": context({"in": b"x"})},
    )
    assert "/f 1000:2000 644\n/g 55:55 644\n/t/in 1:2 644\ntext of \n" in text(messages)
    assert "no such user: nobody-here" in error_of(
        build(engine, "FROM busybox\nCOPY --chown=nobody-here f /", {"f": b""})
    )


def test_a_working_directory_that_is_made_belongs_to_the_user(engine: Daemon) -> None:
    dockerfile = """
    FROM busybox
    RUN mkdir /there && echo me:x:5:6::/:/bin/sh >> /etc/passwd
    USER me
    WORKDIR /there/new/er
    WORKDIR /there
    USER 7:8
    WORKDIR /other
    RUN touch mine; stat -c '%n %u:%g' /there /there/new /there/new/er /other /other/mine
    USER nobody-here
    WORKDIR /nowhere
    RUN true
    """
    messages = build(engine, dockerfile)
    assert "WORKDIR /nowhere\n" in text(messages)
    assert "/there 0:0\n/there/new 5:6\n/there/new/er 5:6\n/other 7:8\n/other/mine 7:8\n" in text(messages)
    assert "unable to find user nobody-here" in error_of(messages)


def test_a_name_alone_owns_with_its_own_group(engine: Daemon) -> None:
    messages = build(
        engine,
        """
        FROM busybox
        RUN echo other:x:70:71::/:/bin/sh >> /etc/passwd
        COPY --chown=other f /f
        COPY --chown=:extra f /g
        COPY --chown=70 f /h
        RUN stat -c '%n %u:%g' /f /g /h
        """,
        {"f": b""},
    )
    assert "/f 70:71\n/g 0:2000\n/h 70:70\n" in text(messages)


@pytest.mark.parametrize(
    ("base", "before"),
    [("scratch", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("busybox\nENV PATH=/b", "/b")],
)
def test_there_is_always_a_path(engine: Daemon, base: str, before: str) -> None:
    image = image_of(build(engine, f"FROM {base}\nENV PATH=/x:$PATH"))
    assert engine.json("GET", f"/images/{image}/json")["Config"]["Env"] == [f"PATH=/x:{before}"]


@pytest.mark.parametrize(
    ("dockerfile", "why"),
    [
        ("FROM busybox\nCOPY away /x", "not found"),
        ("FROM busybox\nCOPY sub/passwd /x", "not found"),
        ("FROM busybox\nCOPY bee /x", "(did you mean b?)"),
        ("FROM busybox AS made\nFROM busybox\nCOPY --from=maed /x /", "(did you mean made?)\nDockerfile:3\n"),
        ("FROM busybos", "(did you mean busybox?)\nDockerfile:1\n"),
        ("FROM busybox\nCOPY \\\n  away \\\n  /x", "   2 | >>> COPY \\\n   3 | >>>   away"),
        ("FROM busybox\nRUN mkdir -p /x/a\nCOPY a /x/", "cannot replace to directory /x/a with file"),
        ("FROM busybox\nRUN mkdir /x && ln -s /tmp /x/d\nCOPY c /x/", "cannot copy to non-directory: /x/d"),
        ("FROM busybox\nCOPY --chown=4294967296 a /x", "uids and gids must be in range"),
        ("FROM busybox\nADD --checksum=sha256:12 a /x", "checksum requires a single source"),
        ("FROM busybox\nADD --checksum=md5:12 http://127.0.0.1:1/a /x", "invalid checksum 'md5:12'"),
        ("FROM busybox\nCOPY *.none /x", "no source files were specified"),
        ("FROM busybox\nCOPY a b /x", "the destination must be a directory and end with a /"),
        ("FROM busybox\nRUN --mount=from=nope,target=/x true", "nope"),
    ],
)
def test_steps_that_fail_say_why(engine: Daemon, dockerfile: str, why: str) -> None:
    files: Files = {"away": "/etc/passwd", "sub": "../../../etc", "a": b"", "b": b"", "c/d/e": b""}
    assert why in error_of(build(engine, dockerfile, files))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"x" * 2000, "invalid build context"),
        (context({"../../x": b"", "Dockerfile": "FROM busybox"}), "leads out"),
        (context({"x": b""}), "Cannot locate specified Dockerfile: Dockerfile"),
        (context({"Dockerfile": "FROM busybox\nRNU x"}), "unknown instruction: RNU (did you mean RUN?)"),
        (context({"Dockerfile": ""}), "cannot be empty"),
    ],
)
def test_contexts_that_are_refused_get_a_status(engine: Daemon, body: bytes, why: str) -> None:
    status, data = post(engine, body)
    assert (status, why in json.loads(data)["message"]) == (400, True), data
    eventually(lambda: not list((engine.folder / "data/build/work").iterdir()))


def test_the_cache_is_shown_and_pruned(engine: Daemon) -> None:
    build(engine, "FROM busybox\nRUN --mount=type=cache,target=/c echo 1 | tee /c/x > /pruned-1", t="pruned")
    rows = engine.json("GET", "/system/df?type=build-cache")["BuildCache"]
    step = next(row for row in rows if "/pruned-1" in row["Description"])
    assert (step["Type"], step["InUse"], step["Shared"]) == ("regular", False, True)
    assert any(row["Type"] == "exec.cachemount" for row in rows)
    kept = engine.json("POST", f"/build/prune?filters={quote(json.dumps({'until': ['24h']}))}")
    assert kept["CachesDeleted"] is None
    gone = engine.json("POST", "/build/prune?all=1")["CachesDeleted"]
    assert step["ID"] in gone
    assert engine.json("GET", "/system/df?type=build-cache")["BuildCache"] == []
    assert engine.docker("run", "--rm", "pruned", "cat", "/pruned-1").stdout == "1\n"
    engine.docker("rmi", "pruned")


def test_pruning_leaves_the_steps_that_images_came_by(engine: Daemon) -> None:
    dockerfile = "FROM busybox\nENV A=1\nRUN echo kept > /kept\nCMD x"
    made = build(engine, dockerfile, t="kept")
    build(engine, "FROM busybox\nRUN echo gone > /gone")
    engine.request("POST", "/images/prune?filters=" + quote('{"dangling":["true"]}'))
    deleted = engine.json("POST", "/build/prune")["CachesDeleted"]
    assert deleted
    assert image_of(build(engine, dockerfile)) == image_of(made)
    assert engine.json("POST", f"/build/prune?all=1&keep-storage={1 << 40}")["CachesDeleted"] is None
    assert engine.json("POST", "/build/prune?all=1&max-used-space=1")["CachesDeleted"]


def test_quiet_gives_the_id_alone(engine: Daemon) -> None:
    messages = build(engine, "FROM busybox\nRUN echo unheard", q=1)
    (only,) = messages
    assert only["stream"].startswith("sha256:")


def test_triggers_run_in_the_next_build(engine: Daemon) -> None:
    build(engine, "FROM busybox\nONBUILD COPY x /x\nONBUILD RUN cat /x", t="trigger")
    messages = build(engine, "FROM trigger", {"x": b"pulled\n"})
    assert "# Executing 2 build triggers\n" in text(messages)
    assert "pulled\n" in text(messages)
    assert engine.json("GET", f"/images/{image_of(messages)}/json")["Config"].get("OnBuild") is None
    engine.docker("rmi", "trigger")


def test_limits_and_networks_of_the_commands(engine: Daemon) -> None:
    messages = build(
        engine,
        "FROM busybox\nRUN --network=none ls /sys/class/net\nRUN cat /etc/hosts; ulimit -n; df /dev/shm | tail -1",
        networkmode="bridge",
        extrahosts="there:10.9.8.7",
        ulimits=json.dumps([{"Name": "nofile", "Soft": 77, "Hard": 88}]),
        shmsize=1 << 20,
    )
    said = text(messages)
    assert "lo\n" in said
    assert "10.9.8.7\tthere" in said
    assert "\n77\n" in said
    assert " 1024 " in said.rpartition("shm")[0]


def test_who_waits_for_a_step_of_a_build_that_is_given_up_still_gets_it(engine: Daemon) -> None:
    dockerfile = (
        "FROM busybox\nRUN --mount=target=/ctx cat /proc/sys/kernel/random/uuid > /id; cat /ctx/x /ctx/go\nCOPY x /y"
    )
    files: Files = {"x": b"from the context\n", "go": b""}
    body = context({"Dockerfile": dockerfile.replace("cat /ctx/x", "sleep 2; cat /ctx/x"), **files})
    connection = UnixConnection(engine.socket)
    connection.request("POST", "/v1.41/build", body, {"Content-Type": "application/x-tar"})
    client = connection.sock
    answer = connection.getresponse()
    while b"Running in" not in answer.readline():
        pass
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        second = pool.submit(post, engine, body)
        while len(list((engine.folder / "data/build/work").iterdir())) < 2 and not second.done():
            time.sleep(0.01)
        client.shutdown(socket.SHUT_RDWR)
        answer.close()
        connection.close()
        status, data = second.result(60)
    assert status == 200
    assert b"from the context" in data
    assert b"Successfully built" in data


@pytest.mark.parametrize(
    ("flag", "entitlement"), [("--network=host", "network.host"), ("--security=insecure", "security.insecure")]
)
def test_a_dockerfile_gets_nothing_of_the_machine_unasked(engine: Daemon, flag: str, entitlement: str) -> None:
    said = error_of(build(engine, f"FROM busybox\nRUN {flag} id"))
    assert f"RUN {flag} is not allowed: build with --allow {entitlement}" in said


def test_entitlements_are_asked_for_and_can_be_kept_back(engine: Daemon) -> None:
    step = "FROM busybox\nRUN --network=host readlink /proc/self/ns/net"
    own = os.readlink("/proc/self/ns/net")
    assert own in text(build(engine, step, allow="network.host"))
    assert own in text(build(engine, step, networkmode="host", nocache="1"))
    status, said = post(engine, context({"Dockerfile": step}), allow="security.insecure")
    assert status == 403
    assert b"set builder.entitlements.security-insecure in daemon.json" in said
    status, said = post(engine, context({"Dockerfile": step}), allow="everything")
    assert (status, b"unknown entitlement 'everything'" in said) == (400, True)


@pytest.fixture
def permissive(registry: Registry) -> Iterator[Daemon]:
    """An engine that lets builds have privileged steps, and not the machine's network."""
    with folder() as path:
        entitlements = {"security-insecure": True, "network-host": False}
        (path / "daemon.json").write_text(json.dumps({"builder": {"entitlements": entitlements}}))
        flags = ["--config-file", str(path / "daemon.json"), "--registry-mirror", f"http://{registry.address}"]
        daemon = Daemon(path, *flags).start()
        try:
            yield daemon
        finally:
            daemon.stop()
        assert not traces(path)


def test_an_engine_can_be_configured_to_allow_privileged_steps(permissive: Daemon) -> None:
    step = "FROM busybox\nRUN --security=insecure mkdir /m && mount -t tmpfs x /m"
    assert "is not allowed" in error_of(build(permissive, step))
    assert image_of(build(permissive, step, allow="security.insecure"))
    assert post(permissive, context({"Dockerfile": step}), allow="network.host")[0] == 403
