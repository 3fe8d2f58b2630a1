"""The policies that are in force: read from a file, and again when it changes.

``Policies`` reads the file when it is made, and keeps reading it: the first request that comes a second
or more after a change sees it, and has it read in a thread; a request that comes more than two seconds
after it reads the file itself, so that the new text decides about it and about those that come meanwhile.
``AsyncPolicies`` always reads in a thread, since its event loop must not stand still. All policies share
their connections with the ones that are read later.
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
from limiter.web.identity import Network
from limiter.web.new_subjects import NewSubjects
from limiter.web.verdict import Observer

log = logging.getLogger("limiter.policies")

#: Seconds between two looks at the file, and for which it must not have changed to be read.
LOOK_EVERY = 1.0

_AnyGuard = TypeVar("_AnyGuard", Guard, AsyncGuard)
_Own = TypeVar("_Own", bound="_Policies[Any]")
_Stamp = tuple[int, int, int]

#: The shared connections belong to a limiter of two limits, whose script every guard uses.
_ANY_TWO_LIMITS = "1/second; 1/minute"


@dataclass(frozen=True)
class Current(Generic[_AnyGuard]):
    """What is in force at one moment.

    Attributes:
        file: What the file says.
        guard: All of its policies together.
        guards: Each alone, by its name.

    """

    file: PolicyFile
    guard: _AnyGuard
    guards: Mapping[str, _AnyGuard]


class _Policies(Generic[_AnyGuard]):
    """All but the two kinds of limiters and guards."""

    _guard_class: type[_AnyGuard]
    _limiter_class: type[Limiter] | type[AsyncLimiter]
    _may_wait: ClassVar[bool]
    """Whether a request may wait until a text is read."""

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
    ) -> None:
        self.path = os.fspath(path)
        #: Why the file is refused now; None when all is well.
        self.refused: InvalidPolicyFile | None = None
        #: How many texts have been refused so far.
        self.refusals = 0
        self._trusted = settings.trusted_proxies() if trusted is None else tuple(trusted)
        self._observe = observe
        #: Of every limiter, where its policy does not say otherwise.
        self._settings: dict[str, Any] = {
            "prefix": prefix,
            "key_secret": key_secret,
            "on_error": on_error,
            "local_share": local_share,
            "timeout": timeout,
        }
        self._root: Any = self._limiter_class(
            _ANY_TWO_LIMITS,
            store=store,
            name="policies",
            connect_timeout=connect_timeout,
            **self._settings,
        )
        #: By policy: they go on when the file changes.
        self._new_subjects: dict[str, NewSubjects] = {}
        self._begin()
        self._stamp = _stamp(self.path)
        kept = _kept.get(os.path.abspath(self.path))
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
        """The policies of ``LIMITER_POLICIES``, with ``LIMITER_STORE`` and the others.

        ``defaults`` are arguments of the class that a variable, where it is set, overrides.

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
        """All policies together, as they are in force now; ask once for each request, it never changes."""
        return self.current.guard

    def guard_for(self, name: str) -> _AnyGuard | None:
        """One policy alone, as it is in force now; None where there is none of that name."""
        return self.current.guards.get(name)

    @property
    def current(self) -> Current[_AnyGuard]:
        """Everything that is in force now, of one text."""
        now = monotonic()
        if now >= self._look_at:
            self._look(now >= self._look_at + LOOK_EVERY)
        return self._current

    def reload(self) -> bool:
        """Read the file now, as on SIGHUP; False where it is refused, and what is in force stays.

        Every fault of a refused text is logged.
        """
        self._mind_forks()
        with self._lock:
            stamp = _stamp(self.path)
            try:
                text = text_of(self.path)
                current = self._current if text == self._current.file.text else self._made(text)
            except InvalidPolicyFile as error:
                self._stamp = stamp
                self._refuse(error)
                return False
            self._stamp = stamp
            self.refused = None
            if current is not self._current:
                self._current = current
                self._keep()
                log.info("%s was read: %s", self.path, ", ".join(current.guards))
            return True

    def _made(self, text: str) -> Current[_AnyGuard]:
        file = read(text, self.path, self._limiter)
        rules = [named.rule for named in file.policies.values()]
        for rule in rules:
            if rule.new_subjects is not None:
                rule.new_subjects.go_on(self._new_subjects.get(rule.name, rule.new_subjects))
                self._new_subjects[rule.name] = rule.new_subjects
        for warning in file.warnings:
            log.warning("%s", warning)

        def guard(rules: list[Any]) -> _AnyGuard:
            return self._guard_class(rules, self._trusted, self._observe, file.address_from)

        return Current(file, guard(rules), {rule.name: guard([rule]) for rule in rules})

    def _limiter(self, limits: Any, **own: Any) -> Any:
        return self._limiter_class(limits, store=self._root, **{**self._settings, **own})

    def _keep(self) -> None:
        kept = _kept.get(os.path.abspath(self.path))
        if kept is not None:
            kept.put(self._current.file.text)

    def _refuse(self, error: InvalidPolicyFile) -> None:
        self.refused = error
        self.refusals += 1
        log.error("%s is refused, what was in force stays:\n%s", self.path, error)

    def _begin(self) -> None:
        self._process = os.getpid()
        # A signal's handler may reload while the same thread is at it.
        self._lock = threading.RLock()
        self._looking = threading.RLock()
        self._look_at = monotonic() + LOOK_EVERY
        self._pending: _Stamp | None = None

    def _mind_forks(self) -> None:
        if self._process != os.getpid():
            self._begin()  # a lock that another thread held is held for ever in the child

    def _look(self, was_idle: bool) -> None:
        """Whether the file has changed, and has rested since: an editor may be in the middle of it.

        After an idle time all who come wait for whoever looks first: what it finds may have to be in
        force already.
        """
        self._mind_forks()
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
            if age > LOOK_EVERY or stamp == self._pending:
                self._read(is_overdue=age > 2 * LOOK_EVERY)
            self._pending = stamp
        finally:
            self._look_at = monotonic() + LOOK_EVERY

    def _read(self, is_overdue: bool) -> None:
        """Nobody waits for a text, but who comes when it has to be in force."""
        if is_overdue and self._may_wait:
            self.reload()
            return
        # At the process's end there are no new threads, and need not be.
        with suppress(RuntimeError):
            threading.Thread(target=self.reload, daemon=True).start()


class Policies(_Policies[Guard]):
    """A file's policies, for threads; see the module."""

    _guard_class = Guard
    _limiter_class = Limiter
    _may_wait = True

    def open(self) -> Policies:
        """Connect and load the scripts beforehand. Optional.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a later call tries again by itself.

        """
        self._root.open()
        return self

    def close(self) -> None:
        """Close the idle connections; a later call makes new ones."""
        self._root.close()


class AsyncPolicies(_Policies[AsyncGuard]):
    """A file's policies, for coroutines; see the module."""

    _guard_class = AsyncGuard
    _limiter_class = AsyncLimiter
    _may_wait = False  # the event loop would stand still, and calls under way run out of time

    async def open(self) -> AsyncPolicies:
        """As ``Policies.open``, for the running event loop."""
        await self._root.open()
        return self

    async def close(self) -> None:
        """As ``Policies.close``, for the running event loop."""
        await self._root.close()


def hand_on(path: str | os.PathLike[str]) -> None:
    """Share the last good text of a file with the processes that will be forked from this one.

    A ``Policies`` that one of them makes while the file is broken begins with that text.

    Raises:
        InvalidPolicyFile: There is none yet, and the file cannot be used.

    """
    path = os.fspath(path)
    where = os.path.abspath(path)
    text = None
    try:
        text = read(text_of(path), path).text
    except InvalidPolicyFile:
        if where not in _kept:
            raise
    kept = _kept.setdefault(where, _Kept())
    if text is not None:
        kept.put(text)


class _Kept:
    """A text in memory that a process shares with those that are forked from it."""

    _DIGEST = 16

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("limiter-policies")
            return
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())

    def put(self, text: str) -> None:
        """Remember a text, in one write."""
        raw = text.encode()
        digest = blake2b(raw, digest_size=self._DIGEST).digest()
        os.pwrite(self._file, digest + len(raw).to_bytes(8, "big") + raw, 0)

    def get(self) -> str | None:
        """The text that was put last, by whichever process; None where one is being put right now."""
        head = self._DIGEST + 8
        for _ in range(100):
            content = os.pread(self._file, os.fstat(self._file).st_size, 0)
            raw = content[head : head + int.from_bytes(content[self._DIGEST : head], "big")]
            if blake2b(raw, digest_size=self._DIGEST).digest() == content[: self._DIGEST]:
                return raw.decode()
            time.sleep(0.001)
        return None


#: By the file's absolute path.
_kept: dict[str, _Kept] = {}

_GONE = (0, 0, 0)


def _stamp(path: str) -> _Stamp:
    """What changes when the file does."""
    try:
        stat = os.stat(path)
    except OSError:
        return _GONE
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
