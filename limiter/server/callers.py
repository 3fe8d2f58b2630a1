"""Identifies callers of ``/v1`` and of the operators' address, by their network and by tokens."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Sequence
from contextlib import suppress

from limiter import Limiter
from limiter.server import logs
from limiter.server.one_policy import AnyPolicies
from limiter.server.responses import abort
from limiter.web import identity
from limiter.web.identity import Network, Unidentified
from limiter.web.request import Request

#: Wrong tokens that one address may show; beyond that, no token of this address is checked for a while.
WRONG_TOKENS = "10/minute"

#: Paths for any caller, also if the root path has ``/v1/`` in it.
_PROBES = ("/healthz", "/readyz")

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="limiter"'}


class Callers:
    """The callers of an application.

    A caller is the peer, or the client that a trusted proxy reports: a client is not trusted because its
    request came through a trusted proxy.
    """

    def __init__(self, policies: AnyPolicies, trusted: Sequence[Network]) -> None:
        self._policies = policies
        self._trusted = trusted

    def are_trusted(self, request: Request) -> bool:
        """Whether the peer, and each client that it reports, is in a trusted network."""
        if not identity.is_trusted(request.peer, self._trusted):
            return False
        try:
            clients = [str(each.client(self._trusted)) for each in self._readings(request)]
        except Unidentified:
            return False
        return all(identity.is_trusted(client, self._trusted) for client in clients)

    def address(self, request: Request) -> str:
        """Return the caller's address, by which wrong tokens are counted."""
        for reading in self._readings(request):
            with suppress(Unidentified):
                return reading.caller(self._trusted)
        try:
            return identity.of_peer(request.peer)
        except Unidentified:
            return "unix"

    def _readings(self, request: Request) -> list[Request]:
        """Return the request once for each field in which a proxy may have reported its client."""
        fields = dict.fromkeys((self._policies.guard.address_from, "x-forwarded-for"))
        return [request.changed(address_from=field) for field in fields if field in request.headers]


class Token:
    """A token that callers may show. Each worker counts wrong tokens in its own memory.

    ``variable`` is the variable that holds the token: log lines name it.
    """

    def __init__(self, variable: str, token: str, callers: Callers) -> None:
        self._line = f"a caller showed a token that is not {variable}"
        self._expected = token.encode()
        self._callers = callers
        self._wrong = Limiter(WRONG_TOKENS, store="memory://", name=f".{variable.lower()}")

    def is_shown(self, request: Request) -> bool:
        """Whether the request shows the token; how long this takes does not depend on the token.

        If too many wrong tokens came from the caller's address, abort with 429 and check none.
        """
        given = request.headers.get("authorization", "")
        if not given:
            return False
        address = self._callers.address(request)
        state = self._wrong.peek(address)
        if not state.allowed:
            wait = {"Retry-After": str(math.ceil(state.retry_after))}
            abort(429, "Too many wrong tokens came from this address.", wait)
        scheme, _, token = given.partition(" ")
        good = hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._expected)
        if good and scheme.lower() == "bearer":
            return True
        self._wrong.hit(address)
        logs.log.warning(self._line, extra={"address": address})
        return False

    def require(self, request: Request) -> None:
        """Abort with 401 unless the request shows the token."""
        if not self.is_shown(request):
            abort(401, "The token is missing or wrong.", _CHALLENGE)


def only_known(callers: Callers, token: Token | None) -> Callable[[Request], None]:
    """Make the check that refuses ``/v1`` to callers outside trusted networks without the token."""

    def check(request: Request) -> None:
        # A server may have a root path, which begins each path and belongs to no route.
        path = request.path.removeprefix(request.scope.get("root_path", ""))
        if path in _PROBES or "/v1/" not in request.path or callers.are_trusted(request):
            return
        if token is None or not token.is_shown(request):
            abort(403, "Only callers in a trusted network, or with a token, are answered.")

    return check
