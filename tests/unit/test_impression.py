"""What a FullStack impression becomes, whatever its dict looks like and whatever came before it."""

from __future__ import annotations

import random
from typing import Any

import msgpack

from vwo_fast import _lane

EVENTS = {"track-user": 1, "track-goal": 2, "push": 3}
VALUES = {
    "u": "A" * 32,
    "sId": 1700000000,
    "visitor_ua": "Mozilla/5.0",
    "visitor_ip": "203.0.113.7",
    "combination": 2,
    "experiment_id": 231,
    "goal_id": 7,
    "r": 12.5,
    "tags": '{"u": {"plan": "gold"}}',
}
OTHERS = ("random", "sdk", "sdk-v", "ap", "account_id", "env", "ed", "ig", "cl")


def wanted(impression: dict[str, Any]) -> dict[str, Any]:
    """The event that the SDK itself builds of an impression."""
    event = EVENTS[impression["url"].rpartition("/")[2]]
    made = {name: impression.get(name) for name in ("u", "sId", "visitor_ua", "visitor_ip")}
    if event == 3:
        return {**made, "t": impression.get("tags"), "eT": 3}
    made.update(c=impression.get("combination"), e=impression.get("experiment_id"))
    if event == 2:
        made["g"] = impression.get("goal_id")
    made["eT"] = event
    if event == 2 and impression.get("r") is not None:
        made["r"] = impression["r"]
    return made


def fresh(text: str) -> str:
    """An equal string that is another object, as a JSON parser makes them."""
    return "".join(list(text))


def some_impression(chance: random.Random) -> dict[str, Any]:
    items: list[tuple[str, Any]] = [(name, value) for name, value in VALUES.items() if chance.random() < 0.85]
    items += [(name, chance.random()) for name in OTHERS if chance.random() < 0.7]
    items.append(("url", f"https://example.com/eu01/server-side/{chance.choice(list(EVENTS))}"))
    chance.shuffle(items)
    if chance.random() < 0.3:
        items = [(fresh(name), value) for name, value in items]
    made = dict(items)
    if chance.random() < 0.2:
        made.pop(chance.choice(list(made.keys() - {"url"})))
    return made


def test_any_order_of_keys_gives_the_same_event() -> None:
    """Fields absent, in another order, at other places or under other key objects: always the SDK's own event."""
    chance = random.Random(20)
    pool = [some_impression(chance) for _ in range(60)]
    for _ in range(6000):
        impression = chance.choice(pool) if chance.random() < 0.7 else some_impression(chance)
        packed = _lane.pack_fullstack(impression)
        assert list(msgpack.unpackb(packed).items()) == list(wanted(impression).items())


def test_a_field_that_appears_later_is_seen() -> None:
    """A goal of the same size and order as the one before, but with a revenue where something else was."""
    goal = {**VALUES, "extra": 1, "url": "https://example.com/server-side/track-goal"}
    for name in ("r", "goal_id", "combination", "u"):
        without = {("absent" if key == name else key): value for key, value in goal.items()}
        for impression in (goal, without, goal, goal, without):
            assert msgpack.unpackb(_lane.pack_fullstack(impression)) == wanted(impression)


def test_one_shape_of_dict_with_another_url() -> None:
    """The event is that of the url, however like the last impression this one is."""
    for _ in range(3):
        for event in EVENTS:
            impression = {**VALUES, "url": f"https://example.com/server-side/{event}"}
            assert msgpack.unpackb(_lane.pack_fullstack(impression)) == wanted(impression)
