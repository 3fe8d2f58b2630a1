"""The next step after an error reply, and the reading of a slot table: values in, values out."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from limiter import FixedWindow, StoreRefused, StoreUnavailable
from limiter.call import Block, Call, CallTemplate
from limiter.transport import tables
from limiter.transport.redirects import MOST_REDIRECTS, TRYAGAIN_PAUSES, Action, Redirects
from limiter.transport.slots import SLOTS, SlotTable, slot_of
from limiter.transport.store import Address, read_store
from limiter.transport.tables import graver, in_turn
from limiter.transport.wire import encode, encode_with_text

CALL = Call(CallTemplate("hit", 0, 0, (Block(FixedWindow(5, 1), 0, 1),)), (b"key",), b"tag")
MOVED = "MOVED 5 h:1"


def steps(*said: str, left: float = 1.0) -> list[Action]:
    """The steps of one call that gets these replies, one after the other."""
    redirects = Redirects(CALL, encode(CALL))
    return [redirects.next_action(ResponseError(each), left) for each in said]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["NOSCRIPT none"], [Action.RETRY]),
        (["NOSCRIPT none", "NOSCRIPT none"], [Action.RETRY, Action.FAIL]),
        (["READONLY no"], [Action.FIND_PRIMARY]),
        (["READONLY no", "READONLY no"], [Action.FIND_PRIMARY, Action.FAIL]),
        (
            ["READONLY no", "NOSCRIPT none", MOVED],
            [Action.FIND_PRIMARY, Action.RETRY, Action.FOLLOW],
        ),
        (["TRYAGAIN x"] * 9, [Action.RETRY] * 9),
        (
            ["ASK 5 h:1", MOVED, "ASK 5 h:1", MOVED],
            [Action.FOLLOW] * MOST_REDIRECTS + [Action.FAIL],
        ),
        (["ERR any"], [Action.FAIL]),
        (["OOM full"], [Action.FAIL]),
        (["WRONGTYPE other"], [Action.FAIL]),
        (["CLUSTERDOWN"], [Action.FAIL]),
        ([""], [Action.FAIL]),
    ],
)
def test_each_reason_counts_once(said: list[str], expected: list[Action]) -> None:
    """A call is sent again for each reply that proves that nothing ran; any other error ends it."""
    assert steps(*said) == expected


def test_pauses_end_with_the_deadline() -> None:
    """If a pause would end after the deadline, the call fails."""
    redirects = Redirects(CALL, encode(CALL))
    for pause in (*TRYAGAIN_PAUSES, TRYAGAIN_PAUSES[-1]):
        assert redirects.next_action(ResponseError("TRYAGAIN x"), 1.0) is Action.RETRY
        assert redirects.pause == pause
    assert steps("TRYAGAIN x", left=TRYAGAIN_PAUSES[0]) == [Action.FAIL]
    assert steps("TRYAGAIN x", left=-1.0) == [Action.FAIL]


def test_the_text_goes_once_the_id_was_unknown() -> None:
    """Also to the node of a redirect."""
    redirects = Redirects(CALL, encode(CALL))
    assert redirects.command == encode(CALL)
    redirects.next_action(ResponseError("NOSCRIPT none"), 1.0)
    assert redirects.command == encode_with_text(CALL)
    redirects.next_action(ResponseError(MOVED), 1.0)
    assert redirects.command == encode_with_text(CALL)


def test_only_an_ask_sends_asking() -> None:
    """Later tries on the same node send it again, until another node is named."""
    redirects = Redirects(CALL, encode(CALL))
    for said, asking in [
        ("ASK 5 h:1", True),
        ("NOSCRIPT none", True),
        ("TRYAGAIN x", True),
        (MOVED, False),
    ]:
        redirects.next_action(ResponseError(said), 1.0)
        assert redirects.asking is asking


def test_the_error_after_the_last_redirect() -> None:
    """A circle means a cluster in trouble; a redirect of a single store means a wrong ``store``."""
    redirects = Redirects(CALL, encode(CALL))
    error = ResponseError(MOVED)
    redirects.next_action(error, 1.0)
    assert isinstance(redirects.failure(error, "store"), StoreRefused)
    for _ in range(MOST_REDIRECTS):
        redirects.next_action(error, 1.0)
    assert str(redirects.failure(error, "store")) == "store: more than 3 redirects"
    assert isinstance(redirects.failure(ResponseError("OOM full"), "store"), StoreUnavailable)


class Node:
    """A node without any connection."""

    has_idle = False

    def __init__(self, address: Address) -> None:
        self.address = address
        self.where = f"store {address[0]}:{address[1]}"


def made(url: str = "redis+cluster://a:1,b:2") -> SlotTable[Node]:
    return SlotTable(read_store(url), Node)


def test_a_table_replaces_the_one_before() -> None:
    """Owners, nodes, and nodes that have left; nodes of the setting are kept."""
    table = made()
    asked = table.node_at(("a", 1))
    reply = [[0, 99, [b"a", 1]], [100, SLOTS - 1, ["c", 3], ["d", 4]]]
    assert table.fill(table.parse(reply, asked)) == []
    first, last = table.owners[0], table.owners[SLOTS - 1]
    assert first is table.owners[99] is asked
    assert last is not None
    assert last.address == ("c", 3)
    assert table.primaries == {first, last}
    replica = ("d", 4)
    assert replica in {node.address for node in table.to_ask()}
    left = table.fill(table.parse([[0, SLOTS - 1, [None, 1]]], asked))
    assert {node.address for node in left} == {last.address, replica}
    assert set(table.nodes) == {("a", 1), ("b", 2)}
    assert {node.address for node in table.to_ask()} == {("a", 1), ("b", 2)}


def answers(table: SlotTable[Node], owners: dict[str, str | None]) -> list[str]:
    """Read the table from nodes that name these owners, or do not answer; return the order of the nodes."""
    reading, asked = table.begin_reading(), []
    for node, _ in reading.nodes(0.08):
        name = node.address[0]
        asked.append(name)
        if (owner := owners[name]) is None:
            reading.fail(node, StoreUnavailable("down"))
        else:
            reading.add(node, [[[0, SLOTS - 1, [owner, 1], *([other, 1] for other in owners)]]])
    table.end_reading(reading)
    return asked


@pytest.mark.parametrize(
    ("owners", "number", "believed", "remains"),
    [
        ({"old": "old", "new": "new", "x": "new"}, 1, "new", True),
        ({"old": "old", "new": None, "x": "old"}, 3, "old", False),
        ({"old": "old", "x": "old", "y": "old", "z": "old"}, 2, "old", False),
        ({"old": "old", "x": None, "y": None}, 3, "old", True),
        ({"old": None, "x": None}, 2, "old", True),
    ],
)
def test_an_owner_in_doubt(
    owners: dict[str, str | None], number: int, believed: str, remains: bool
) -> None:
    """It is asked last, and its own word counts only if no other node has answered."""
    table = made("redis+cluster://old:1")
    assert answers(table, {"old": "old", **dict.fromkeys(owners, "old")}) == ["old"]
    table.doubt(0)
    asked = answers(table, owners)
    assert len(asked) == number
    assert "old" not in asked[:-1]
    assert table.owner(0).address == (believed, 1)
    assert (table.failure is None) is (owners["old"] is not None)
    # The doubt ends when another node names the owner.
    assert (len(answers(table, dict.fromkeys(owners, "old"))) > 1) is remains
    assert len(answers(table, dict.fromkeys(owners, "old"))) == 1


def test_two_owners_in_doubt() -> None:
    """The old owner is cut off, and a call to the new one was late: the doubt about the new one ends."""
    table = made("redis+cluster://old:1")
    owners: dict[str, str | None] = {"old": "old", "new": "new", "x": "new"}
    answers(table, dict.fromkeys(owners, "old"))
    table.doubt(0)
    answers(table, owners)
    table.doubt(0)
    assert answers(table, owners)[0] == "x"
    assert table.owner(0).address == ("new", 1)
    for _ in range(10):  # nodes are asked in any order
        assert "old" not in answers(table, owners)
        assert table.owner(0).address == ("new", 1)


def test_the_second_answer_is_believed() -> None:
    """Of two nodes that are not in doubt, one may be cut off together with the old owner."""
    for _ in range(20):  # nodes are asked in any order
        table = made("redis+cluster://old:1")
        answers(table, dict.fromkeys(("old", "x", "y"), "old"))
        table.doubt(0)
        asked = answers(table, {"old": "old", "x": "old", "y": "y"})
        assert asked in (["x", "y"], ["y"])
        assert table.owner(0).address == ("y", 1)


def test_a_slot_without_an_owner() -> None:
    """The error has the slot's number."""
    table = made()
    with pytest.raises(StoreUnavailable, match=f"no node has slot {slot_of(b'tag')}"):
        table.owner(slot_of(b"tag"))


def test_a_moved_is_remembered_and_an_ask_is_not() -> None:
    """MOVED tells the slot's owner, ASK the node for one call."""
    table = made()
    node = table.node_at(("a", 1))
    table.fill(table.parse([[0, SLOTS - 1, ["a", 1]]], node))
    there = table.pointed_to(ResponseError("ASK 5 b:2"), node)
    assert there.address == ("b", 2)
    assert table.owners[5] is node
    assert table.pointed_to(ResponseError("MOVED 5 :2"), node).address == ("a", 2)
    owner = table.owners[5]
    assert owner is not None
    assert owner.address == ("a", 2)
    assert table.owners[4] is node


@pytest.mark.parametrize("slots", [(-1, 5), (0, SLOTS), (5, 4), (0, 10**12), ("x", 5)])
def test_a_table_of_other_slots_is_refused(slots: tuple[object, object]) -> None:
    """It would make the table longer, or take all of the memory."""
    table = made()
    with pytest.raises(StoreRefused, match="answered CLUSTER SLOTS"):
        table.parse([[*slots, ["a", 1]]], table.node_at(("a", 1)))


@pytest.mark.parametrize("slot", [-1, SLOTS, "x"])
def test_a_redirect_of_no_slot_is_refused(slot: object) -> None:
    table = made()
    with pytest.raises(StoreRefused, match="expected a slot and host:port"):
        table.pointed_to(ResponseError(f"MOVED {slot} b:2"), table.node_at(("a", 1)))


def test_a_refusal_is_graver() -> None:
    """It is reported instead of a node that is down, whichever comes first."""
    refused, down = StoreRefused("r"), StoreUnavailable("d")
    assert graver(None, down) is down
    assert graver(down, refused) is refused
    assert graver(refused, down) is refused


def test_a_late_node_is_asked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """First each node has a short time; a node that answered, or the only one, is not asked again."""
    asked, now = [], 100.0
    monkeypatch.setattr(tables, "monotonic", lambda: now)
    for name, until in in_turn(["quick", "late"], 0.08):
        asked.append((name, round(until - now, 3)))
        if name == "late":
            now += 0.02  # longer than its share: that is the test
    assert asked == [("quick", 0.01), ("late", 0.01), ("late", 0.08)]
    [(_, until)] = in_turn(["alone"], 0.08)
    assert round(until - now, 3) == 0.08
