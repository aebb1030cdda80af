"""What can be set: the tables and keys of the TOML file. docs/registry.md describes each of them.

`configuration` reads the file and the environment; command line flags override both where a flag exists.
"""

import os
from typing import Annotated, Final, Literal

import msgspec

from scow.errors import InvalidArgument

WORKERS_LIMIT: Final = 8
"""More are started only if somebody asks for them: each takes some 7 MiB, and more when it is busy."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
"""Three centuries at most, as of all times: clocks can be counted on with them."""
Pause = Annotated[float, msgspec.Meta(gt=0, le=1e10)]
"""Seconds, at least some of one."""
Lifetime = Annotated[int, msgspec.Meta(ge=1, le=10**10)]
"""Seconds, at least one."""
Days = Annotated[float, msgspec.Meta(ge=0, le=1e5)]
SmallSize = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]  # each of these blobs is in memory as a whole
Workers = Annotated[int, msgspec.Meta(ge=0, le=256)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9)]

Action = Literal["pull", "push", "delete", "*"]
EventAction = Literal["push", "pull", "delete", "mount"]
EVENT_ACTIONS: Final[list[EventAction]] = ["push", "pull", "delete", "mount"]


class SettingsInvalid(InvalidArgument):
    """The configuration cannot be used."""

    def __init__(self, source: str, why: str) -> None:
        super().__init__(f"{source}: {why}")


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables."""


class Token(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[auth.token]`: the built-in token server."""

    realm: str = ""  # the token endpoint's URL as clients reach it; empty: from `url`, or from the request's Host
    service: str = "scow-registry"
    algorithm: Literal["ES256", "EdDSA"] = "ES256"  # of new signing keys; both are understood
    life_s: Annotated[int, msgspec.Meta(ge=60, le=10**10)] = 300  # clients keep one for a minute whatever it says
    refresh_life_s: Lifetime = 30 * 86400
    key_life_s: Lifetime = 30 * 86400  # a signing key is used for so long, and known until its last token has expired
    issuer: str = ""  # tokens are those of somebody else, who is called so in them; needs `realm` and `keys`
    keys: str = ""  # that server's public keys: the URL of a JWKS document, or a file of one, or of PEM
    ca: str | None = None  # file of certificates that are trusted besides the system's for that URL, PEM


class Oidc(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[auth.oidc]]`: an issuer of OpenID Connect, whose users may log in."""

    name: str  # in the URL of its login: /-/oidc/<name>/callback is where it sends browsers back to
    issuer: str  # its URL
    client_id: str  # what the registry is called there
    client_secret: str = ""
    client_secret_file: str | None = None
    title: str = ""  # on the page; empty: its name
    scopes: list[str] = msgspec.field(default_factory=lambda: ["openid", "profile", "email"])
    audiences: list[str] = []  # of tokens that clients bring, besides `client_id`
    user_claim: str = "preferred_username"  # what users are called here
    user_prefix: str = ""  # goes before it, to tell them from users of ours
    groups_claim: str = "groups"
    ca: str | None = None  # file of certificates that are trusted besides the system's, PEM


class Rule(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[auth.rules]]`: who may do what where."""

    repositories: list[str]  # patterns: `*` within a component, `**` across, `{user}` the caller's name
    actions: list[Action]
    users: list[str] = []  # names; "*" is everybody who has logged in
    groups: list[str] = []
    robots: list[str] = []
    anonymous: bool = False  # everybody, logged in or not


class Auth(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[auth]`."""

    htpasswd: str | None = None  # file of name:bcrypt lines, read again when it changes
    anonymous_pull: bool = False  # reading needs no password
    token: Token | None = None
    oidc: list[Oidc] = []
    rules: list[Rule] = []
    groups: dict[str, list[str]] = {}
    audit_log: str | None = None  # file of JSON lines
    session_life_s: Lifetime = 8 * 3600  # who logs in on the page stays so for so long


class Gc(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[gc]`."""

    interval_s: Seconds = 300.0  # between two runs; 0 leaves it to `scow registry gc`
    grace_s: Seconds = 86400.0  # what nobody refers to is kept for so long
    upload_expiry_s: Seconds = 86400.0  # an upload that nobody goes on with
    retention: str = ""  # when retention runs, as sync's schedule; empty: with each collection


class Tls(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[tls]`."""

    cert: str
    key: str
    client_ca: str | None = None  # clients must show a certificate that one of these has signed
    client_crl: str | None = None  # revocation lists of those, PEM: what they name counts no more
    client_optional: bool = False  # they may, rather than must
    client_names: bool = False  # who shows one is the user of its common name


class Limits(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[limits]`. Zero is no limit."""

    requests_per_s: Rate = 0.0  # of one client address, over all workers
    burst: Positive = 200  # requests that may come at once
    blob_size: Count = 0  # bytes
    manifest_size: Count = 4 << 20  # bytes


class Traces(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[traces]`: OpenTelemetry."""

    endpoint: str = ""  # of a collector that takes OTLP over HTTP, `http://host:4318`; empty: no traces
    service: str = "scow-registry"
    sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = (
        1.0  # share of the requests; whoever calls with a span of theirs decides for us
    )
    headers: dict[str, str] = {}


class Policy(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[policies]]`: what holds in the repositories that match."""

    repositories: list[str]
    immutable_tags: list[str] = []  # patterns: these tags never move nor go
    deprecated_tags: list[str] = []  # patterns: whoever pulls or pushes these tags is warned
    quota_size: Count = 0  # bytes of blobs in each repository
    namespace_quota_size: Count = 0  # bytes of blobs in all repositories beneath the pattern's fixed part together
    keep_last: Count = 0  # retention: so many tags, the newest, stay
    keep_days: Days = 0.0  # retention: tags stay for so long after they moved last
    keep_pulled_days: Days = 0.0  # retention: what was pulled or pushed within so long stays
    keep_tags: list[str] = []  # retention: tags of these patterns stay
    expire_tags: list[str] = []  # retention is about tags of these patterns; none: about all
    untagged_days: Days = 0.0  # retention: manifests that no tag, index or subject needs go after so long

    @property
    def has_retention(self) -> bool:
        """Whether tags are removed by age or number."""
        return bool(self.keep_last or self.keep_days or self.keep_pulled_days)


class Remote(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another registry, and how it is spoken to: part of `[[proxy]]` and `[[sync]]`."""

    upstream: str  # URL, or a host that is reached by https; docker.io is Docker Hub
    username: str = ""
    password: str = ""
    password_file: str = ""
    password_env: str = ""  # name of an environment variable
    verify: bool = True  # its certificate must be one that is trusted
    certs_dir: str = "/etc/scow/certs.d"  # holds HOST[:PORT]/*.crt, *.cert and *.key
    http_proxy: str = ""  # URL of a proxy on the way to it


class Proxy(Remote, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[proxy]]`: repositories of another registry, fetched when somebody pulls them, and kept."""

    namespace: str = ""  # what the repositories' names begin with here; empty: the whole registry
    ns: list[str] = []  # values of `?ns=` that mean this upstream, beside its host
    repositories: list[str] = []  # patterns of the upstream's repositories that may be fetched; none: all
    ttl_s: Seconds = 0.0  # a tag is served for so long before the upstream is asked again whether it has moved
    offline: bool = False  # serve what is here and ask nobody


class Names(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[database]`: where names are."""

    url: str = ""  # postgresql://...; empty: a SQLite file
    path: str = ""  # of that file; empty: `registry.db` in the storage folder
    connections: Positive = 5  # of each worker at most, besides one that listens
    blob_size: SmallSize = 32768  # blobs up to this size, in bytes, are kept in it too; 0 keeps all in `storage`


class Sync(Remote, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[sync]]`: what is copied from another registry, by schedule or when told."""

    name: str
    repositories: list[str]  # of the upstream: names, or patterns if it has a catalog
    namespace: str = ""  # what is put before their names here
    tags: list[str] = []  # patterns, `/regular expressions/`, or versions (`>=1.2 <2`); none: all
    exclude: list[str] = []  # the same, for tags that are left out
    latest: Count = 0  # of those that are versions, only so many, the highest; 0 is all
    platforms: list[str] = []  # os/architecture[/variant]; none: all
    referrers: bool = True  # signatures, SBOMs and the like of what is copied
    delete: bool = False  # tags that the upstream has not got or that are no longer meant go
    schedule: str = ""  # minute hour day month weekday, in UTC; or `every 6h`; empty: only when told


class Webhook(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[webhooks]]`: who is told what happens."""

    name: str
    url: str
    headers: dict[str, str] = {}
    actions: list[EventAction] = msgspec.field(default_factory=lambda: list(EVENT_ACTIONS))
    repositories: list[str] = []  # patterns; none: all
    ignore_media_types: list[str] = []  # of targets, for instance application/octet-stream: no blobs
    timeout_s: Pause = 5.0  # of one request
    verify: bool = True  # its certificate must be one that is trusted
    batch: Positive = 1  # events in one request at most
    retry_s: Seconds = 300.0  # longest pause between two tries
    give_up_s: Seconds = 3 * 86400.0  # what could not be delivered for so long is dropped
    queue: Positive = 10_000  # events that wait at most; the oldest are dropped


class Bucket(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[bucket]`: how the object store is reached, if `storage` is the URL of one."""

    endpoint: str = ""  # URL of a store that is not Amazon's; for S3
    public_endpoint: str = ""  # the same as clients reach it, if it is another
    region: str = "us-east-1"
    access_key: str = ""  # empty: AWS_ACCESS_KEY_ID
    secret_key: str = ""  # empty: AWS_SECRET_ACCESS_KEY
    redirect: bool = True  # clients fetch blobs from the store, by signed URLs, instead of through the registry
    part_size: Count = 8 << 20  # bytes of the parts that large blobs are sent in, 5 MiB at least
    options: dict[str, str] = {}  # obstore's settings of a store, for what is not named above


class Settings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    listen: str = "127.0.0.1:5000"
    storage: str = ""
    spool: str = ""  # folder where bytes on their way wait; empty: `storage`, or TMPDIR or /var/tmp with a store
    url: str = ""  # as clients reach the registry, if a proxy stands before it
    absolute_urls: bool = False  # Location headers with scheme and host rather than a path alone
    proxies: list[str] = []  # addresses and networks whose X-Forwarded-For, -Proto and -Host are believed
    workers: Workers = 0  # processes; 0 is one for each core, 8 at most
    read_only: bool = False
    drain_s: Seconds = 30.0  # requests in flight may go on for so long when the server ends
    access_log: bool = False
    web: bool = True  # pages for browsers at /
    bucket: Bucket = Bucket()
    database: Names = Names()
    auth: Auth = Auth()
    gc: Gc = Gc()
    tls: Tls | None = None
    limits: Limits = Limits()
    traces: Traces = Traces()
    policies: list[Policy] = []
    proxy: list[Proxy] = []
    sync: list[Sync] = []
    webhooks: list[Webhook] = []

    def address(self) -> tuple[str, int]:
        """Host and port to listen on. Raises SettingsInvalid."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise SettingsInvalid("listen", f"must be host:port with a port up to 65535, not {self.listen!r}")
        return host.strip("[]") or "0.0.0.0", int(port)

    def worker_count(self) -> int:
        """How many processes serve."""
        return self.workers or min(len(os.sched_getaffinity(0)), WORKERS_LIMIT)
