"""Which server is a service's primary, by the word of its sentinels. It does no I/O.

A sentinel that is cut off from the others, or was stopped, goes on to name an old primary. Each failover
has a number, the epoch, and each answer is believed by its epoch, not by its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable
from limiter.transport.replies import fields_of
from limiter.transport.store import Address, Store
from limiter.transport.tables import Node, Reading, Table, in_turn
from limiter.transport.wire import command

#: Seconds between two readings, at least, while calls fail.
REFRESH_EVERY = 0.1
#: Seconds after which the sentinels are asked again, if there are calls: an old primary that is cut off
#: from them goes on to answer as a primary.
OUTDATED_AFTER = 0.2
#: Seconds after which lower epochs are believed: sentinels begin with 0 again if an operator makes them
#: forget the service. They tell each other of a failover within two seconds.
FORGOTTEN_AFTER = 10.0
#: Seconds in which a sentinel that did not answer is not asked again, if most of the others answer.
ASK_AGAIN_AFTER = 1.0


class Claim(NamedTuple):
    """What one sentinel says about the service."""

    epoch: int
    """The number of the failover that made the server the primary."""
    address: Address


class PrimaryTable(Table[Node]):
    """The primary of the service, and its sentinels."""

    contents = "answer of a sentinel"
    refresh_every = REFRESH_EVERY
    outdated_after = OUTDATED_AFTER

    def __init__(self, store: Store, make_node: Callable[[Address, Store], Node]) -> None:
        super().__init__(store)
        if store.service is None:
            raise TypeError(f"{store.where} has no sentinels")
        self._service = store.service
        self._make_node = make_node
        of_sentinels = self._service.sentinels
        self.sentinels = [make_node(address, of_sentinels) for address in of_sentinels.addresses]
        self.primary: Node | None = None
        self.agreeing = 0
        """How many sentinels named the primary in the last reading."""
        self._epoch = -1
        self._lower_since = inf
        """Since when all answers have had a lower epoch."""
        self._failed_at: dict[Node, float] = {}
        self._left: list[Node] = []
        # The epoch first: if a failover ends between the two replies, the new address gets the old epoch,
        # and the next reading corrects that. An old address with the new epoch would be believed.
        # SENTINEL MASTER names the new primary only after all replicas have changed to it.
        self.questions = (
            command("SENTINEL", "MASTER", self._service.name),
            command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service.name),
        )

    def begin_reading(self) -> PrimaryReading[Node]:
        """As ``Table.begin_reading``."""
        return PrimaryReading(self)

    def end_reading(self, reading: Any) -> list[Node]:
        """Believe the best answer; return the node of an earlier primary, if there is a new one."""
        super().end_reading(reading)
        # From its beginning: a silent sentinel that is asked last must not delay the next reading.
        self.read_at = reading.began_at
        self.outdated_at = self.read_at + OUTDATED_AFTER
        claims = reading.claims
        self.failure = None if claims else reading.failure
        if claims:
            epoch, address = max(claims, key=lambda claim: claim.epoch)
            if epoch >= self._epoch or self._have_forgotten(claims):
                self._epoch, self._lower_since = epoch, inf
                named = {claim.address for claim in claims if claim.epoch == epoch}
                if self.primary is None or self.primary.address not in named:
                    self._move(address)
            self.agreeing = sum(claim.address == self.owner().address for claim in claims)
        left, self._left = self._left, []
        return left

    def members(self) -> list[Node]:
        """As ``Table.members``."""
        return [*self.sentinels, *([self.primary] if self.primary else [])]

    def owner(self) -> Node:
        """The primary.

        Raises:
            StoreUnavailable: It is not known.

        """
        if self.primary is None:
            raise StoreUnavailable(f"{self._store.where}: the primary is not known")
        return self.primary

    def to_ask(self) -> list[Node]:
        """The sentinels: those that did not answer last time come last."""
        return sorted(self.sentinels, key=lambda sentinel: self._failed_at.get(sentinel, 0.0))

    def has_just_failed(self, sentinel: Node) -> bool:
        """Whether it did not answer a moment ago."""
        failed_at = self._failed_at.get(sentinel)
        return failed_at is not None and monotonic() - failed_at < ASK_AGAIN_AFTER

    def is_most(self, claims: Sequence[Claim]) -> bool:
        """Whether most of the sentinels have answered."""
        return 2 * len(claims) > len(self.sentinels)

    def parse(self, replies: list[Any], source: Node) -> Claim:
        """Read a sentinel's replies.

        Raises:
            StoreRefused: They are no answer of a sentinel.
            StoreUnavailable: It sees too few others.

        """
        try:
            fields, (host, port) = fields_of(replies[0]), replies[1]
            others = int(fields["num-other-sentinels"])
            claim = Claim(int(fields["config-epoch"]), self._remapped((host.decode(), int(port))))
        except (TypeError, ValueError, LookupError, AttributeError):
            raise StoreRefused(
                f"{source.where} answered SENTINEL MASTER with {replies!r:.200}"
            ) from None
        if others < self._service.min_others:
            raise StoreUnavailable(
                f"{source.where} knows {others} other sentinels, and min_other_sentinels is "
                f"{self._service.min_others}"
            )
        return claim

    def take(self, source: Node, claim: Claim) -> None:
        """Believe a newer answer at once, before the other sentinels have answered."""
        self._failed_at.pop(source, None)
        if claim.epoch > self._epoch:
            self._epoch = claim.epoch
            if self.primary is None or self.primary.address != claim.address:
                self._move(claim.address)

    def note_failure(self, source: Node, error: LimiterError) -> LimiterError:
        """Note that a sentinel did not answer; return the error to report."""
        self._failed_at[source] = monotonic()
        text = str(error)
        if isinstance(error, StoreRefused) and "No such master" in text:
            return StoreRefused(
                f"{source.where} knows no service {self._service.name}: see the part after the / of the "
                f"store's URL, and SENTINEL MASTERS"
            )
        if isinstance(error, StoreRefused) and "unknown command" in text:
            return StoreRefused(f"{source.where} is no sentinel: give the store as redis://")
        return error

    def _have_forgotten(self, claims: Sequence[Claim]) -> bool:
        """Whether most sentinels have had lower epochs for long, so that they do not know better."""
        self._lower_since = min(self._lower_since, monotonic())
        return self.is_most(claims) and monotonic() - self._lower_since >= FORGOTTEN_AFTER

    def _move(self, address: Address) -> None:
        if self.primary is not None:
            self._left.append(self.primary)
        self.primary = self._make_node(address, self._store)

    def _remapped(self, address: Address) -> Address:
        return address if self._store.remap is None else self._store.remap(address)


class PrimaryReading(Reading[Node]):
    """One reading: every sentinel is asked, since the first to know of a failover may be any of them."""

    def __init__(self, table: PrimaryTable[Node]) -> None:
        self._table = table
        self.began_at = monotonic()
        self.claims: list[Claim] = []

    def nodes(self, timeout: float) -> Iterator[tuple[Node, float]]:
        """As ``Reading.nodes``; once most have answered, silent ones are asked only now and then."""
        table = self._table
        to_ask = table.to_ask()
        for asked, (node, deadline) in enumerate(in_turn(to_ask, timeout)):
            is_again = asked >= len(to_ask) and bool(self.claims)
            if is_again or (table.is_most(self.claims) and table.has_just_failed(node)):
                return
            yield node, deadline

    def add(self, source: Node, replies: list[Any]) -> None:
        """As ``Reading.add``, for the answer of a sentinel."""
        claim = self._table.parse(replies, source)
        self.claims.append(claim)
        self._table.take(source, claim)

    def fail(self, source: Node, error: LimiterError) -> None:
        """As ``Reading.fail``."""
        super().fail(source, self._table.note_failure(source, error))
