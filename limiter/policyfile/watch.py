"""The policies that are in force: read from a file, and again when the file changes.

``Policies`` reads the file when it is created. The first request that arrives a second or more after a
change starts a thread, which reads the file. A request that arrives more than two seconds after the
change reads the file itself, so that the new text decides about it. ``AsyncPolicies`` always reads in a
thread, since reading would block its event loop. New policies use the connections of the old ones.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Any, ClassVar, Generic, TypeVar

from limiter import settings
from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.errors import InvalidSetting
from limiter.policyfile.faults import InvalidPolicyFile
from limiter.policyfile.reading import PolicyFile, read
from limiter.policyfile.text import text_of
from limiter.web.guard import AsyncGuard, Guard
from limiter.web.identity import Network, TrustedNetworks
from limiter.web.new_subjects import NewSubjects
from limiter.web.verdict import Observer
from limiter.web.wiring import DENIAL_CACHE

log = logging.getLogger("limiter.policies")

#: Seconds between two checks of the file. It is read after it has not changed for as long.
LOOK_EVERY = 1.0

_AnyGuard = TypeVar("_AnyGuard", Guard, AsyncGuard)
_Own = TypeVar("_Own", bound="_Policies[Any]")
_Stamp = tuple[int, int, int]

#: The limits of the limiter that owns the connections; ``open`` loads its script, which all guards use.
_ANY_TWO_LIMITS = "1/day; 1/2 days"


@dataclass(frozen=True)
class Current(Generic[_AnyGuard]):
    """The policies in force at one moment.

    Attributes:
        file: The content of the file.
        guard: Checks all policies together.
        guards: Each checks one policy, by its name.
        forward_auth: Checks all policies but those that count leases, for callers that do not see a request
            end.

    """

    file: PolicyFile
    guard: _AnyGuard
    guards: Mapping[str, _AnyGuard]
    forward_auth: _AnyGuard


class _Policies(Generic[_AnyGuard]):
    """The common part of ``Policies`` and ``AsyncPolicies``."""

    _guard_class: type[_AnyGuard]
    _limiter_class: type[Limiter] | type[AsyncLimiter]
    _may_wait: ClassVar[bool]
    """Whether a request may wait until the file is read."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        store: object,
        trusted: Sequence[Network] | None = None,
        observe: Observer | None = None,
        prefix: str = "rl",
        key_secret: str | bytes | None = None,
        on_error: str = "raise",
        local_share: int = 1,
        timeout: float = 0.1,
        connect_timeout: float = 2.0,
        denial_cache: float = DENIAL_CACHE,
        denial_cache_size: int = 1024,
        prepaid: int = 0,
        prepaid_hold: float = 0.2,
        for_proxies: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        #: The error of the file's current text; None if the text is in force.
        self.refused: InvalidPolicyFile | None = None
        #: How many texts were refused so far.
        self.refusals = 0
        #: Whether proxies ask for decisions: then warnings about ForwardAuth are logged, too.
        self._for_proxies = for_proxies
        self._trusted = TrustedNetworks.of(
            settings.trusted_proxies() if trusted is None else trusted
        )
        self._observe = observe
        #: Settings of every limiter, unless its policy has its own.
        self._settings: dict[str, Any] = {
            "prefix": prefix,
            "key_secret": key_secret,
            "on_error": on_error,
            "local_share": local_share,
            "timeout": timeout,
            "denial_cache": denial_cache,
            "denial_cache_size": denial_cache_size,
            "prepaid": prepaid,
            "prepaid_hold": prepaid_hold,
        }
        self._root: Any = self._limiter_class(
            _ANY_TWO_LIMITS,
            store=store,
            name="policies",
            connect_timeout=connect_timeout,
            **self._settings,
        )
        #: By policy: kept when the file changes.
        self._new_subjects: dict[str, NewSubjects] = {}
        self._begin()
        self._stamp = _stamp(self.path)
        self._kept = kept = _shared_texts.get(os.path.abspath(self.path))
        try:
            self._current: Current[_AnyGuard] = self._made(text_of(self.path))
        except InvalidPolicyFile as error:
            text = kept.get() if kept is not None else None
            if text is None:
                raise
            self._current = self._made(text)
            self._refuse(error)
        else:
            self._keep()

    @classmethod
    def from_env(
        cls: type[_Own], environ: Mapping[str, str] | None = None, **defaults: Any
    ) -> _Own:
        """The policies of the file in ``LIMITER_POLICIES``, with the settings of the other variables.

        ``defaults`` are arguments of the class; variables that are set override them.

        Raises:
            InvalidSetting: A variable is missing or wrong; the message names it.

        """
        arguments = settings.for_policies(environ, defaults)
        arguments.setdefault("trusted", settings.trusted_proxies(environ))
        try:
            return cls(arguments.pop("path"), **arguments)
        except InvalidPolicyFile:
            raise
        except InvalidSetting as error:
            raise settings.named(error, environ) from None

    @property
    def guard(self) -> _AnyGuard:
        """Checks all policies in force. It never changes: read this property once for each request."""
        return self.current.guard

    def guard_for(self, name: str) -> _AnyGuard | None:
        """Checks one policy in force; None if no policy has that name."""
        return self.current.guards.get(name)

    @property
    def forward_auth(self) -> _AnyGuard:
        """Checks all policies in force but those that count leases."""
        return self.current.forward_auth

    @property
    def current(self) -> Current[_AnyGuard]:
        """The policies in force now, all of one text."""
        now = monotonic()
        if now >= self._look_at:
            self._look(now >= self._look_at + LOOK_EVERY)
        return self._current

    def reload(self) -> bool:
        """Read the file now, as on SIGHUP; False if the text is refused, and the old policies stay.

        All faults of a refused text are logged.
        """
        self._restart_in_child()
        with self._lock:
            stamp = _stamp(self.path)
            try:
                text = text_of(self.path)
                current = self._current if text == self._current.file.text else self._made(text)
            except InvalidPolicyFile as error:
                self._stamp = stamp
                self._refuse(error)
                self._follow()
                return False
            self._stamp = stamp
            was_refused, self.refused = self.refused, None
            if current is self._current:
                if was_refused is not None:
                    log.info("%s has its earlier text again: the policies in force stay", self.path)
            else:
                self._current = current
                self._keep()
                log.info("%s was read: %s", self.path, ", ".join(current.guards))
            return True

    def _made(self, text: str) -> Current[_AnyGuard]:
        file: PolicyFile = read(text, self.path, self._limiter)
        rules = [named.rule for named in file.policies.values()]
        for rule in rules:
            if rule.new_subjects is not None:
                rule.new_subjects.go_on(self._new_subjects.get(rule.name, rule.new_subjects))
                self._new_subjects[rule.name] = rule.new_subjects
        warnings = file.warnings
        if self._for_proxies:
            warnings += file.forward_auth_warnings
        for warning in warnings:
            log.warning("%s", warning)

        def guard(rules: list[Any]) -> _AnyGuard:
            return self._guard_class(rules, self._trusted, self._observe, file.address_from)

        every = guard(rules)
        forward_auth = every
        if every.counts_leases:
            forward_auth = guard([rule for rule in rules if not rule.counts_leases])
        return Current(file, every, {rule.name: guard([rule]) for rule in rules}, forward_auth)

    def _limiter(self, limits: Any, **own: Any) -> Any:
        return self._limiter_class(limits, store=self._root, **{**self._settings, **own})

    def _keep(self) -> None:
        if self._kept is not None:
            self._kept.put(self._current.file.text)

    def _refuse(self, error: InvalidPolicyFile) -> None:
        self.refused = error
        self.refusals += 1
        log.error("%s is refused, the policies in force stay:\n%s", self.path, error)

    def _follow(self) -> None:
        """Use the last valid text, if only another process has read it before it was replaced."""
        text = None if self._kept is None else self._kept.get()
        if text is not None and text != self._current.file.text:
            with suppress(InvalidPolicyFile):  # a process of another release may have read it
                self._current = self._made(text)
                log.info("%s: its last valid text is used, which another process read", self.path)

    def _begin(self) -> None:
        self._process = os.getpid()
        # Re-entrant: a signal handler may reload while the same thread does.
        self._lock = threading.RLock()
        self._looking = threading.RLock()
        self._look_at = monotonic() + LOOK_EVERY
        self._pending: _Stamp | None = None

    def _restart_in_child(self) -> None:
        if self._process != os.getpid():
            self._begin()  # a lock held by another thread at the fork stays locked in the child

    def _look(self, was_idle: bool) -> None:
        """Check whether the file has changed, and read it if an editor has finished writing it.

        After an idle time all requests wait for the first one, since a change that is old enough must
        already be in force.
        """
        self._restart_in_child()
        if not self._looking.acquire(blocking=was_idle and self._may_wait):
            return
        try:
            if monotonic() >= self._look_at:
                self._compare()
        finally:
            self._looking.release()

    def _compare(self) -> None:
        try:
            stamp = _stamp(self.path)
            if stamp == self._stamp:
                return
            age = 0.0 if stamp == _GONE else time.time() - stamp[0] / 1e9
            if self._may_wait and age > 2 * LOOK_EVERY:
                self.reload()  # the text must already be in force
            elif age > LOOK_EVERY or stamp == self._pending:
                # At the end of the process no thread can be started, and none is needed.
                with suppress(RuntimeError):
                    threading.Thread(target=self.reload, daemon=True).start()
            self._pending = stamp
        finally:
            self._look_at = monotonic() + LOOK_EVERY


class Policies(_Policies[Guard]):
    """The policies of a file, for threads."""

    _guard_class = Guard
    _limiter_class = Limiter
    _may_wait = True

    def open(self) -> Policies:
        """Connect and load the scripts now. Optional.

        Raises:
            StoreUnavailable, StoreRefused: The store cannot be used now; later calls try again.

        """
        self._root.open()
        return self

    def close(self) -> None:
        """Return the prepaid units, and close the idle connections; a later call makes new ones."""
        for rule in self._current.guard.rules:
            rule.limiter.close()
        self._root.close()


class AsyncPolicies(_Policies[AsyncGuard]):
    """The policies of a file, for coroutines."""

    _guard_class = AsyncGuard
    _limiter_class = AsyncLimiter
    _may_wait = False  # the event loop would block, and calls in progress would time out

    async def open(self) -> AsyncPolicies:
        """As ``Policies.open``, for the running event loop."""
        await self._root.open()
        return self

    async def close(self) -> None:
        """As ``Policies.close``, for the running event loop."""
        for rule in self._current.guard.rules:
            await rule.limiter.close()
        await self._root.close()


def hand_on(path: str | os.PathLike[str]) -> None:
    """Share the last valid text of a file with processes that are forked later.

    If the file is wrong when one of them creates its ``Policies``, these begin with that text.

    Raises:
        InvalidPolicyFile: The file cannot be used, and there is no earlier text.

    """
    path = os.fspath(path)
    where = os.path.abspath(path)
    text = None
    try:
        text = read(text_of(path), path).text
    except InvalidPolicyFile:
        if where not in _shared_texts:
            raise
    kept = _shared_texts.setdefault(where, _SharedText())
    if text is not None:
        kept.put(text)


class _SharedText:
    """A text in memory that a process shares with its forked children."""

    _DIGEST = 16

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("limiter-policies")
            return
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())

    def put(self, text: str) -> None:
        """Store a text, in one write."""
        raw = text.encode()
        digest = blake2b(raw, digest_size=self._DIGEST).digest()
        os.pwrite(self._file, digest + len(raw).to_bytes(8, "big") + raw, 0)

    def get(self) -> str | None:
        """The text that any process stored last; None while one is being stored."""
        head = self._DIGEST + 8
        for _ in range(100):
            content = os.pread(self._file, os.fstat(self._file).st_size, 0)
            raw = content[head : head + int.from_bytes(content[self._DIGEST : head], "big")]
            if blake2b(raw, digest_size=self._DIGEST).digest() == content[: self._DIGEST]:
                return raw.decode()
            time.sleep(0.001)
        return None


#: By the file's absolute path.
_shared_texts: dict[str, _SharedText] = {}

_GONE = (0, 0, 0)


def _stamp(path: str) -> _Stamp:
    """A value that changes when the file does."""
    try:
        stat = os.stat(path)
    except OSError:
        return _GONE
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
