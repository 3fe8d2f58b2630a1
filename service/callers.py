"""The callers of ``/v1`` and of the operators' address: where they call from, and the tokens they show."""

from __future__ import annotations

import hmac
import math
from collections.abc import Sequence
from contextlib import suppress

from flask import abort, request

from limiter import Limiter
from limiter.policyfile import Policies
from limiter.web import identity
from limiter.web.identity import Network, Unidentified
from limiter.web.request import Request, from_wsgi
from service import bodies, logs
from service.one_policy import OnePolicy

#: Wrong tokens of one address, after which no token that it shows is looked at for a while.
WRONG_TOKENS = "10/minute"

_BEARER = [("WWW-Authenticate", 'Bearer realm="limiter"')]


class Callers:
    """The callers of an application.

    A caller is the peer, or the client that a trusted proxy names: so a proxy that passes on what it
    should not opens nothing.
    """

    def __init__(self, policies: Policies | OnePolicy, trusted: Sequence[Network]) -> None:
        self._policies = policies
        self._trusted = trusted

    def are_trusted(self) -> bool:
        """Whether the peer is in a trusted network, and each client that it names."""
        if not identity.is_trusted(request.remote_addr, self._trusted):
            return False
        try:
            clients = [str(named.client(self._trusted)) for named in self._named()]
        except Unidentified:
            return False
        return all(identity.is_trusted(client, self._trusted) for client in clients)

    def address(self) -> str:
        """The caller's address, for counting."""
        for named in self._named():
            with suppress(Unidentified):
                return named.caller(self._trusted)
        try:
            return identity.caller(request.remote_addr, None, self._trusted)
        except Unidentified:
            return "unix"

    def _named(self) -> list[Request]:
        """The request by the field that our proxies write, and by the one that most write, where sent."""
        by_environ = from_wsgi(request.environ)
        fields = dict.fromkeys((self._policies.guard.address_from, "x-forwarded-for"))
        readings = [by_environ.changed(address_from=field) for field in fields]
        return [reading for reading in readings if reading.forwarded_for is not None]


class Token:
    """A token that callers may show. Each worker counts wrong ones by itself, in its memory.

    ``variable`` is where the token comes from: log lines name it.
    """

    def __init__(self, variable: str, token: str, callers: Callers) -> None:
        self._line = f"a caller showed a token that is not {variable}"
        self._expected = token.encode()
        self._callers = callers
        self._wrong = Limiter(WRONG_TOKENS, store="memory://", name=f".{variable.lower()}")

    def is_shown(self) -> bool:
        """Whether the request shows it; the time that this takes says nothing of the token.

        Aborts with 429, without looking, where too many wrong ones came from the caller's address.
        """
        given = request.headers.get("Authorization", "")
        if not given:
            return False
        address = self._callers.address()
        state = self._wrong.peek(address)
        if not state.allowed:
            seconds = str(math.ceil(state.retry_after))
            problem = bodies.problem(429, "Too many wrong tokens came from this address.")
            abort(bodies.json_response(problem, 429, [("Retry-After", seconds)]))
        scheme, _, token = given.partition(" ")
        good = hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._expected)
        if good and scheme.lower() == "bearer":
            return True
        self._wrong.hit(address)
        logs.log.warning(self._line, extra={"address": address})
        return False

    def require(self) -> None:
        """Abort with 401 without it."""
        if not self.is_shown():
            problem = bodies.problem(401, "The token is missing or wrong.")
            abort(bodies.json_response(problem, 401, _BEARER))
