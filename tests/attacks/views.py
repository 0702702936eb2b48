"""Attacks within one attempt, on who is said to have shared, survived and signed.

The parties are n = 7, c = 2, t = 5. V is the victim, A, B, C, D the other honest silos, E and F collude. An honest
silo holds one share of each kind of every silo that shared with it; so do E and F. What the attacks want is V's
self-mask seed (5 shares) and the keys of all pair masks in V's upload (5 shares of each).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attacks.coordinator import Party, Room, make_party

A, B, V, C, D, E, F = ALL = tuple(f"silo-{index:02d}" for index in range(1, 8))
HONEST = ALL[:5]


@dataclass(frozen=True)
class Result:
    """What the attacker computed, what it wanted, and why silos refused it."""

    guess: list[int] | None
    truth: list[int]
    refusals: tuple[str, ...] = ()


Attack = Callable[[Path], Result]


def result(party: Party, room: Room, guess: list[int] | None) -> Result:
    truth = party.honest[V].contributed.get(room.context.id, [])
    return Result(guess, truth, party.refusals())


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in ALL if name not in names)


def both_kinds(party: Party, room: Room) -> Result:
    """V's masks from V's own two secrets."""
    private = room.recover("masking_key_shares", V)
    return result(party, room, room.unmask(V, private=private) if private else None)


def reads_along(folder: Path) -> Result:
    """Follows the protocol and looks for both kinds of share of V in what the silos say."""
    party = make_party(folder)
    room = Room(party, party.attempt(0))
    room.upload_all()
    room.finish()
    return both_kinds(party, room)


def asks_for_the_other_kind(folder: Path) -> Result:
    """Lets V survive, collects the shares of its self-mask; then says that V was lost, to the same silos."""
    party = make_party(folder)
    room = Room(party, party.attempt(0))
    room.upload_all()
    room.finish()
    for name in (A, B, C, D):
        room.show_survivors(name, without(V))
    for name in (A, B, C, D):
        room.prove(name, without(V))
    return both_kinds(party, room)


# Views under which everybody gives a share of V's seed, and five know a share of A's and of B's masking key: beside
# the two colluders' shares three honest ones suffice, and a silo never names itself as lost.
VIEWS = {A: without(B), B: without(A), C: without(A, B), D: without(A, B)}


def isolate(party: Party, attempt: int) -> Room:
    """Let V believe that only A, B and the colluders shared: only masks with A and B hide its upload."""
    room = Room(party, party.attempt(attempt))
    for name in HONEST:
        room.show_roster(name)
    for name in HONEST:
        room.deliver(name, (A, B, E, F) if name == V else None)
    return room


def show_views(room: Room, views: Mapping[str, Iterable[str]]) -> None:
    for name, view in views.items():
        room.show_survivors(name, view)


def split_views(folder: Path) -> Result:
    """Shows different survivors to different silos; each proof is filled up with the signatures of other views."""
    party = make_party(folder)
    room = isolate(party, 0)
    show_views(room, {**VIEWS, V: (V, A, B, E, F)})
    anybodys = {signer: signature for (signer, _), signature in room.signed.items()}
    for name, view in VIEWS.items():
        room.prove(name, view, others={signer: text for signer, text in anybodys.items() if signer in view})
    return result(party, room, room.unmask(V))


def split_views_with_few_signatures(folder: Path) -> Result:
    """The same with the signatures that each view really has: two honest ones at most, and the colluders'."""
    party = make_party(folder)
    room = isolate(party, 0)
    show_views(room, VIEWS)
    for name, view in VIEWS.items():
        room.prove(name, view)
    return result(party, room, room.unmask(V))


def second_survivor_set(folder: Path) -> Result:
    """Asks each silo to sign every view that it is part of, its own last: each proof is then whole.

    V cannot sign, so this takes n = 10, c = 3, t = 7: V believes in A, B, C alone, and two of these are lost in
    each of the six others' views, four times each.
    """
    party = make_party(folder, silos=10, colluders=3)
    a, b, c, p, q, r = (name for name in party.honest if name != V)
    colluders = tuple(party.colluders)
    lost = {a: (b, c), b: (a, c), c: (a, b), p: (a, b), q: (b, c), r: (a, c)}
    everybody = (*party.honest, *colluders)
    views = {name: tuple(sorted(set(everybody) - set(gone))) for name, gone in lost.items()}
    room = Room(party, party.attempt(0))
    for name in party.honest:
        room.show_roster(name)
    for name in party.honest:
        room.deliver(name, (a, b, c, *colluders) if name == V else None)
    for name, own in views.items():
        for view in sorted(set(views.values()) - {own}):
            if name in view:
                room.show_survivors(name, view)
    show_views(room, views)
    for name, view in views.items():
        room.prove(name, view)
    return result(party, room, room.unmask(V))


def unequal_deliveries(folder: Path) -> Result:
    """V is told that only A, B, E, F shared, then that A and B were lost and C and D, unheard of, survived."""
    party = make_party(folder)
    room = isolate(party, 0)
    show_views(room, dict.fromkeys((V, C, D), without(A, B)))
    for name in (V, C, D):
        room.prove(name, without(A, B))
    return result(party, room, room.unmask(V))


def few_sharers(folder: Path) -> Result:
    """V is told that only the colluders shared; the others, that all did and all survived."""
    party = make_party(folder)
    room = Room(party, party.attempt(0))
    for name in HONEST:
        room.show_roster(name)
    for name in HONEST:
        room.deliver(name, (E, F) if name == V else None)
    show_views(room, dict.fromkeys((A, B, C, D), ALL))
    for name in (A, B, C, D):
        room.prove(name, ALL)
    return result(party, room, room.unmask(V))


def small_survivor_sets(folder: Path) -> Result:
    """Each honest silo is told that only itself, V and the colluders survived."""
    party = make_party(folder)
    room = Room(party, party.attempt(0))
    room.upload_all()
    views = {V: (A, V, E, F), **{name: (name, V, E, F) for name in (A, B, C, D)}}
    show_views(room, views)
    for name, view in views.items():
        room.prove(name, view)
    return result(party, room, room.unmask(V))


def low_threshold(folder: Path) -> Result:
    """With t = 4 two views have their proofs: V survived (say V, A, E, F), V was lost (say B, C, D, E, F)."""
    party = make_party(folder, threshold=4)
    room = Room(party, party.attempt(0))
    room.upload_all()
    views = {V: ALL, A: ALL, **dict.fromkeys((B, C, D), without(V))}
    show_views(room, views)
    for name, view in views.items():
        room.prove(name, view)
    return both_kinds(party, room)


def second_delivery(folder: Path) -> Result:
    """After V's upload delivers once more, from A, B, E, F alone, for a second vector under the same masks.

    A and B then count as lost, to everybody and under whole proofs: no other mask hides the second vector.
    """
    party = make_party(folder)
    room = Room(party, party.attempt(0))
    room.upload_all()
    room.deliver(V, (A, B, E, F))
    room.finish(lost=(A, B))
    return result(party, room, room.unmask(V))
