"""Decides about each request: who asks (password, token, certificate, nobody), and whether they may.

The account is found out first, then what it may do in the repository: by the rules, or by what its token grants.
"""

import base64
import binascii
from typing import Final

from scow.registry.accounts import Accounts
from scow.registry.calls import Call, Route
from scow.registry.errors import AccessDenied, AuthenticationRequired
from scow.registry.issuers import Issuers
from scow.registry.keys import Keys
from scow.registry.names import is_repository
from scow.registry.passwords import Passwords
from scow.registry.rules import ACTIONS, Identity, Rules
from scow.registry.sessions import Sessions
from scow.registry.settings import Settings, Token
from scow.registry.tls import peer_name
from scow.registry.tokens import Claims, ForeignTokens, Grant, Tokens, Verifier

REALM: Final = "scow registry"
TOKEN_PATH: Final = "/token"
_READING: Final = ("GET", "HEAD")


class Caller:
    """Who asks, and what they may do."""

    def __init__(
        self,
        who: Identity | None,
        rules: Rules,
        *,
        claims: Claims | None = None,
        free: bool = False,
        session: bool = False,
    ) -> None:
        """`claims` are a token's; `free` says that the registry has no access control; `session` is a browser's."""
        self.who = who
        self.name = who.name if who is not None else None
        self.claims = claims
        self.session = session
        self._rules = rules
        self._free = free

    def may(self, repository: str, action: str) -> bool:
        """Whether this request may do it."""
        if self._free:
            return True
        granted = self.claims.repositories.get(repository) if self.claims is not None else None
        if granted is not None and (action in granted or "*" in granted):
            return True
        # What anybody may do needs no grant. A token otherwise counts for what it says, not for who asked for it.
        return action in self._rules.actions(None if self.claims is not None else self.who, repository)

    def sees(self, repository: str) -> bool:
        """Whether the catalog shows it."""
        named = self.claims is None or self.claims.catalog
        return self._free or "pull" in self._rules.actions(self.who if named else None, repository)

    @property
    def free(self) -> bool:
        """Whether the registry has no access control."""
        return self._free

    @property
    def may_list(self) -> bool:
        """Whether the catalog is open to this request."""
        if self.claims is not None and not self.claims.catalog:
            # Whoever has logged in may see more, and podman asks for a token that says so when it is told to.
            return self._rules.anonymous_may_pull and self.name is None
        return self._free or self.name is not None or self._rules.anonymous_may_pull


class Access:
    """Admits calls or refuses them."""

    def __init__(self, accounts: Accounts, passwords: Passwords, settings: Settings) -> None:
        self._passwords = passwords
        self._settings = settings
        auth, tls = settings.auth, settings.tls
        self._guarded = (
            auth.htpasswd is not None
            or bool(auth.rules)
            or auth.token is not None
            or bool(auth.oidc)
            or (tls is not None and tls.client_names)
        )
        self._mirrors = any(not proxy.namespace for proxy in settings.proxy)  # as a whole
        self.rules = Rules(auth)
        self._anybody = Caller(None, self.rules, free=True)
        token = auth.token or Token()
        self.keys = keys = Keys(accounts, token.algorithm, token.key_life_s, max(token.life_s, auth.session_life_s))
        self.sessions = Sessions(keys, passwords, auth.session_life_s, self.rules.groups)
        self.issuers = Issuers(auth.oidc)
        self.tokens: Tokens | None = None  # that we issue
        self._foreign: ForeignTokens | None = None
        if auth.token is not None and (auth.token.issuer or auth.token.keys):
            self._foreign = ForeignTokens(auth.token)
        elif auth.token is not None:
            self.tokens = Tokens(accounts, keys, auth.token)

    async def admit(self, call: Call) -> Caller:
        """Who asks, if they may. Raises AuthenticationRequired, AccessDenied and TooManyRequests."""
        caller = await self.identify(call)
        call.caller = caller
        kind, repository = call.route.kind, call.route.repository
        action = needed_action(call.route, call.method)
        if action is not None:
            allowed = caller.may(repository, action)
        elif kind in ("catalog", "web-home"):
            allowed = caller.may_list
        elif kind == "ping":
            # With any token: docker's way is to fetch one first, for nobody too.
            allowed = caller.claims is not None or self._may_enter(caller)
        else:
            allowed = self._may_enter(caller)
        if allowed:
            return caller
        if caller.claims is None and caller.name is not None:
            raise AccessDenied(f"{caller.name} may not {action or 'read'} here", {"name": repository, "action": action})
        if caller.claims is None:
            raise self.challenge(call)
        raise self.challenge(call, "insufficient_scope", f"the token does not allow {action or 'reading'} here")

    def _may_enter(self, caller: Caller) -> bool:
        if caller.free or caller.name is not None:
            return True
        if self._mirrors and caller.may("", "pull"):
            return True  # it takes no pushes, and docker would try its password of Docker Hub here
        # Docker learns here that there are tokens; without them it would not log in where it is told to read freely.
        return self._verifier is None and self.rules.anonymous_may_pull

    async def identify(self, call: Call) -> Caller:
        """Who asks. Raises AuthenticationRequired where credentials are given and wrong."""
        authorization = call.headers.get("Authorization")
        if authorization is None:
            if not await self._is_guarded():
                return self._anybody
            if call.route.kind.startswith("web-") and (who := await self.sessions.find(call)) is not None:
                return Caller(who, self.rules, session=True)
            return Caller(self._certified(call), self.rules)
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer" and (self._verifier is not None or self.issuers.all):
            # A token is no way to another one: it may say less than its bearer may do, and it ends soon.
            verifier = self._verifier if call.route.kind != "token" else None
            claims = await verifier.verify(value.strip()) if verifier is not None else None
            if claims is None:
                who = await self.issuers.identify(value.strip())
                if who is None:
                    raise self.challenge(call, "invalid_token", "the token has expired or is not good here")
                return Caller(who, self.rules)
            return Caller(Identity(claims.subject) if claims.subject else None, self.rules, claims=claims)
        if not await self._is_guarded():
            return self._anybody
        name, password = self._parse_basic(call, scheme, value)
        who = await self.log_in(call, name, password)
        if who is None:
            raise self.challenge(call)
        return Caller(who, self.rules)

    def caller(self, who: Identity, *, session: bool = True) -> Caller:
        """Somebody who has just logged in, on a page or at the token endpoint."""
        return Caller(who, self.rules, session=session)

    async def secret(self, name: str) -> str | None:
        """What is kept of an account's password, as of now; None if the account is not there."""
        return await self._passwords.secret(name, fresh=True)

    async def log_in(self, call: Call, name: str, password: str) -> Identity | None:
        """Who has this name and password; None if nobody has. Raises TooManyRequests and IssuerUnreachable.

        An ID token of an issuer does as a password, with any name: docker can send it in no other way.
        """
        call.tried = name
        if self.issuers.all and password.count(".") == 2 and (who := await self.issuers.identify(password)) is not None:
            return who
        return Identity(name) if await self._passwords.check(name, password, call.remote) else None

    @property
    def _verifier(self) -> Verifier | None:
        return self.tokens or self._foreign

    async def aclose(self) -> None:
        """Close the connections to issuers."""
        await self.issuers.aclose()
        if self._foreign is not None:
            await self._foreign.aclose()

    async def has_accounts(self) -> bool:
        """Whether anybody can log in by a password."""
        return bool(await self._passwords.known())

    async def _is_guarded(self) -> bool:
        return self._guarded or bool(await self._passwords.known())

    def _certified(self, call: Call) -> Identity | None:
        tls = self._settings.tls
        name = peer_name(call.peer_certificate) if tls is not None and tls.client_names else None
        return Identity(name) if name else None

    def _parse_basic(self, call: Call, scheme: str, value: str) -> tuple[str, str]:
        try:
            name, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise self.challenge(call) from error
        if scheme.lower() != "basic" or not colon or "\0" in name:
            raise self.challenge(call)
        return name, password

    def challenge(
        self, call: Call, error: str | None = None, message: str = "authentication required"
    ) -> AuthenticationRequired:
        """What tells a client how to log in, and for what. docker's token specification; RFC 6750 section 3."""
        token = self._settings.auth.token
        if token is None or call.route.kind == "token" or call.route.kind.startswith("web-"):  # browsers know Basic
            return AuthenticationRequired(f'Basic realm="{REALM}"', message)
        parts = [f'realm="{self.token_url(call)}"', f'service="{token.service}"']
        if scope := _scope(call):
            parts.append(f'scope="{scope}"')
        if error is not None:
            parts.append(f'error="{error}"')
        return AuthenticationRequired(f"Bearer {','.join(parts)}", message)

    def token_url(self, call: Call) -> str:
        """Where tokens are, as the client reaches it."""
        token = self._settings.auth.token
        if token is not None and token.realm:
            return token.realm
        if self._settings.url:
            return self._settings.url.rstrip("/") + TOKEN_PATH
        return call.base_url + TOKEN_PATH

    async def granted(self, who: Identity | None, scopes: list[str]) -> list[Grant]:
        """What an account gets of the scopes that were asked for; the rest is left out."""
        free = not await self._is_guarded()
        access: list[Grant] = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            resource, _, asked = rest.rpartition(":")
            wanted = {action for action in asked.split(",") if action}
            if kind.partition("(")[0] == "repository" and is_repository(resource):
                allowed = ACTIONS if free else self.rules.actions(who, resource)
                granted = allowed & (ACTIONS if "*" in wanted else wanted)
                if "*" in wanted and granted == ACTIONS:
                    granted = granted | {"*"}
                if granted:
                    access.append({"type": "repository", "name": resource, "actions": sorted(granted)})
            elif (kind, resource) == ("registry", "catalog") and Caller(who, self.rules, free=free).may_list:
                access.append({"type": "registry", "name": "catalog", "actions": ["*"]})
        return access


def needed_action(route: Route, method: str) -> str | None:
    """What a request does in its repository; None where no repository is concerned."""
    if not route.repository:
        return None
    if route.kind in ("uploads", "upload"):
        return "push"  # an upload is asked about and cancelled by whoever pushes it
    if method in _READING:
        return "pull"
    # A browser's form cannot say DELETE.
    return "delete" if method == "DELETE" or route.kind == "web-image" else "push"


def _scope(call: Call) -> str:
    if call.route.kind == "catalog":
        return "registry:catalog:*"
    action = needed_action(call.route, call.method)
    if action is None:
        return ""
    name = call.route.repository
    if not all(c.isalnum() or c in "/._-" for c in name):
        return ""  # not a name, and nothing to put into a header
    scopes = [f"repository:{name}:{'pull,push' if action == 'push' else action}"]
    source = call.parameter("from")
    if source and call.parameter("mount") and all(c.isalnum() or c in "/._-" for c in source):
        scopes.append(f"repository:{source}:pull")
    return " ".join(scopes)
