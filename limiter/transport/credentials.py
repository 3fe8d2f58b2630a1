"""Credentials that change while a program runs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Protocol

from redis.credentials import CredentialProvider

from limiter.errors import StoreRefused
from limiter.log_throttle import log_seldom
from limiter.threads import start_thread
from limiter.transport import forks
from limiter.transport.wire import command

log = logging.getLogger("limiter")

#: Seconds after which a provider is asked again. (A provider that streams credentials calls one function
#: when they change, and that is the one of the user's client.)
CHECK_EVERY = 30.0

Words = tuple[str] | tuple[str, str]


class PasswordFile(CredentialProvider):
    """A password in a file, read again for each connection: a new one needs no restart."""

    def __init__(self, path: str, username: str | None) -> None:
        self._path = path
        self._username = username

    def get_credentials(self) -> Words:
        """Return the password, with the user's name if there is one.

        Raises:
            StoreRefused: The file cannot be read, or is empty. That is no failure of the store.

        """
        try:
            with open(self._path, encoding="utf-8") as file:
                password = file.read().rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise StoreRefused(
                f"the store's password file {self._path} cannot be read: {reason}; expected a file with "
                f"the password and nothing else"
            ) from None
        if not password:
            raise StoreRefused(
                f"the store's password file {self._path} is empty: expected a file with the password "
                f"and nothing else"
            )
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> Words:
        """As ``get_credentials``."""
        return self.get_credentials()


class Renewable(Protocol):
    """Something that has authenticated connections."""

    def renew(self) -> None:
        """Authenticate the connections anew that were authenticated before ``Credentials.changed_at``."""


class Credentials(CredentialProvider):
    """The user's provider, and what it returned last, so that a change shows."""

    def __init__(self, provider: Any, where: str) -> None:
        self._provider = provider
        self._where = where
        self._last: Words | None = None
        self.changed_at = -inf
        """When other credentials than before were first seen."""
        self.after_fork()
        forks.remember(self)

    def after_fork(self) -> None:
        """Forget the thread and its nodes: in the child of a fork, they do not exist."""
        self._lock = threading.Lock()
        self._nodes: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_watched = False

    @property
    def auth(self) -> bytes:
        """The command that authenticates a connection with the last credentials."""
        return command("AUTH", *(self._last or ()))

    def get_credentials(self) -> Words:
        """Ask the provider."""
        return self._noted(self._provider.get_credentials())

    async def get_credentials_async(self) -> Words:
        """Ask the provider; one that has no coroutine for it is asked in a thread."""
        provider = self._provider
        if type(provider).get_credentials_async is CredentialProvider.get_credentials_async:
            loop = asyncio.get_running_loop()
            return self._noted(await loop.run_in_executor(None, provider.get_credentials))
        return self._noted(await provider.get_credentials_async())

    def watch(self, node: Renewable) -> None:
        """Ask the provider again and again, in one thread, and let the node renew its connections."""
        with self._lock:
            self._nodes.add(node)
            if not self._is_watched:
                start_thread(partial(_watch, weakref.ref(self)), self._where)
                self._is_watched = True

    def check(self) -> bool:
        """Ask the provider, and let the nodes renew their connections; return whether there are any."""
        with self._lock:
            nodes = list(self._nodes)
            self._is_watched = bool(nodes)
        if not nodes:
            return False
        try:
            self.get_credentials()
        except Exception as error:
            self.complain(error)
        for node in nodes:
            node.renew()
        return True

    def forget(self, node: Renewable) -> None:
        """Stop watching for the node: it was closed."""
        with self._lock:
            self._nodes.discard(node)

    def complain(self, error: BaseException) -> None:
        """Log that credentials could not be renewed."""
        log_seldom(log, logging.WARNING, "%s: credentials were not renewed: %s", self._where, error)

    def _noted(self, credentials: Words) -> Words:
        last, self._last = self._last, credentials
        if last is not None and credentials != last:
            self.changed_at = monotonic()
        return credentials


def _watch(reference: weakref.ref[Credentials]) -> None:
    """Ask the provider every ``CHECK_EVERY`` seconds, as long as a node needs that."""
    while True:
        time.sleep(CHECK_EVERY)
        credentials = reference()
        if credentials is None or not credentials.check():
            return
        del credentials


class LoopNode(Protocol):
    """A node of an event loop."""

    def begin_renewal(self, connection: Any) -> None:
        """Ask the provider; if the credentials have changed, authenticate the connection anew."""


def check_later(node: LoopNode, connection: Any) -> None:
    """Begin the renewal in ``CHECK_EVERY`` seconds, if the node and its connection still exist then."""
    to_node, to_connection = weakref.ref(node), weakref.ref(connection)

    def begin() -> None:
        node, connection = to_node(), to_connection()
        if node is not None and connection is not None and not connection.closed:
            node.begin_renewal(connection)

    asyncio.get_running_loop().call_later(CHECK_EVERY, begin)
