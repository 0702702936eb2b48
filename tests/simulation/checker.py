"""What must hold of a history, whatever the machines did inside: each rule returns what is wrong, in words.

The rules know facts only: what was charged, made durable, sent, released and reported, and in which order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from foedus_contract.wire import Unmask
from simulation.history import Fact, History

COORDINATOR = "coordinator"

# What a silo may do in an attempt only after what.
NEEDS = {
    "sends AdvertiseKeys": "journals Opened",
    "sends ShareKeys": "journals Opened",
    "journals Charging": "journals Opened",
    "charges": "journals Charging",
    "logs the charge": "charges",
    "draws noise": "logs the charge",
    "journals Uploaded": "draws noise",
    "sends MaskedVector": "journals Uploaded",
    "sends ConfirmSurvivors": "sends MaskedVector",
    "journals Unmasked": "sends MaskedVector",
    "sends Unmask": "journals Unmasked",
}
# What a silo does at most once in an attempt, before and after a restart.
ONCE = (*NEEDS, "journals Opened")
# What cuts a silo off between charge and upload.
CUTS = {
    "crashes",
    "stops",
    "stops for good",
    "session renewed",
    "gets no answer from the ledger",
    "heard AttemptOver",
    "heard StartAttempt",
    "heard JobOver",
}
# From charge to upload a silo only draws, masks and journals, which takes at most this much virtual time. A cut later
# than that is not what kept the vector back.
UPLOAD_SECONDS = 0.1


def check(history: History) -> list[str]:
    """Return everything that is wrong; empty when all rules hold."""
    return [problem for rule in RULES for problem in rule(history)]


def check_ledgers(history: History) -> Iterator[str]:
    """What the ledgers hold is what was charged, and not more than was reserved."""
    for silo in history.silos:
        charges = [fact.attempt for fact in history.of("charges") if fact.who == silo]
        if history.charged[silo] != len(charges):
            yield f"{silo}: the ledger holds {history.charged[silo]} charges, {len(charges)} were made"
        if len(charges) > history.attempts:
            yield f"{silo}: {len(charges)} charges, {history.attempts} were reserved"


def check_logs(history: History) -> Iterator[str]:
    """A silo's own log holds all that it drew, and nothing that its ledger never held."""
    charged, logged, drawn = defaultdict[str, int](int), defaultdict[str, int](int), defaultdict[str, int](int)
    for fact in history.of("charges", "logs the charge", "draws noise"):
        silo = fact.who
        if fact.what == "charges":
            charged[silo] += 1
        elif fact.what == "draws noise":
            drawn[silo] += 1
        else:
            logged[silo] = fact.data
        if not drawn[silo] <= logged[silo] <= charged[silo]:
            yield f"{silo}: {drawn[silo]} draws, {logged[silo]} in its log, {charged[silo]} charges"


def check_order(history: History) -> Iterator[str]:
    """A silo charges before it draws noise and uploads, and whatever it sends is journalled before."""
    done: set[tuple[str, int, str]] = set()
    for fact in history.facts:
        needed = NEEDS.get(fact.what)
        if needed is not None and (fact.who, fact.attempt, needed) not in done:
            yield f"{fact.who}: {fact.what} in attempt {fact.attempt} without an earlier: {needed}"
        done.add((fact.who, fact.attempt, fact.what))


def check_once(history: History) -> Iterator[str]:
    """Never two unmaskings of one attempt, nor two uploads, charges or draws."""
    seen: set[tuple[str, int, str]] = set()
    for fact in history.of(*ONCE):
        key = (fact.who, fact.attempt, fact.what)
        if key in seen:
            yield f"{fact.who}: {fact.what} twice in attempt {fact.attempt}"
        seen.add(key)
        if isinstance(fact.data, Unmask) and set(fact.data.self_mask_shares) & set(fact.data.masking_key_shares):
            yield f"{fact.who}: both kinds of share of one silo in attempt {fact.attempt}"


def check_sums(history: History) -> Iterator[str]:
    """A released sum is the sum of what its survivors drew and charged, at least t of them; one a number."""
    named: dict[tuple[int, int], tuple[str, ...]] = {}
    drawn: dict[tuple[str, int], np.ndarray] = {}
    released: set[int] = set()
    for fact in history.facts:
        if fact.what == "draws noise":
            drawn[fact.who, fact.attempt] = fact.data
        elif fact.what == "names survivors":
            named[fact.incarnation, fact.attempt] = fact.data
        elif fact.what == "releases":
            if fact.attempt in released:
                yield f"attempt {fact.attempt} is released twice"
            released.add(fact.attempt)
            yield from _check_sum(history, fact, named.get((fact.incarnation, fact.attempt), ()), drawn)


def _check_sum(
    history: History, release: Fact, survivors: tuple[str, ...], drawn: dict[tuple[str, int], np.ndarray]
) -> Iterator[str]:
    attempt = release.attempt
    if len(survivors) < history.threshold:
        yield f"attempt {attempt}: a sum over {len(survivors)} silos, {history.threshold} are needed"
    missing = [silo for silo in survivors if (silo, attempt) not in drawn]
    if missing:
        yield f"attempt {attempt}: survivors without a charged draw: {missing}"
        return
    columns = zip(*(drawn[silo, attempt].tolist() for silo in survivors), strict=True)
    if release.data.tolist() != [sum(column) % 2**32 for column in columns]:
        yield f"attempt {attempt}: the sum is not the survivors'"


def check_cut_charges(history: History) -> Iterator[str]:
    """A charge without an upload was cut off in between; nothing else leaves one."""
    paid: dict[str, Fact] = {}
    for fact in history.facts:
        if fact.what == "charges":
            paid[fact.who] = fact
        elif fact.who in paid and (fact.what in CUTS or fact.what == "sends MaskedVector"):
            yield from _check_cut(paid.pop(fact.who), fact.time)
    for charge in paid.values():
        yield from _check_cut(charge, history.seconds)


def _check_cut(charge: Fact, end: float) -> Iterator[str]:
    if end - charge.time > UPLOAD_SECONDS:
        yield f"{charge.who}: attempt {charge.attempt} was charged, not cut off and not uploaded"


def check_newest(history: History) -> Iterator[str]:
    """A silo is never welcomed by an older coordinator again, and goes home on the word of the newest it knows."""
    newest: dict[tuple[str, int], int] = {}  # of each silo's process
    told: dict[tuple[str, int], int] = {}
    for fact in history.of("heard Welcome", "heard JobOver", "leaves"):
        process = fact.who, fact.incarnation
        if fact.what == "heard Welcome":
            if fact.data < newest.get(process, 0):
                yield f"{fact.who} is welcomed by coordinator {fact.data} after {newest[process]}"
            newest[process] = max(newest.get(process, 0), fact.data)
        elif fact.what == "heard JobOver":
            told[process] = newest.get(process, 0)
        elif told.get(process, -1) != newest.get(process, 0):
            yield f"{fact.who} goes home on the word of coordinator {told.get(process)}, {newest[process]} is newer"


def check_attempts(history: History) -> Iterator[str]:
    """Each attempt ends: with a release that is reported, with a reason, or with the process that made it."""
    released = {_made(fact) for fact in history.of("releases")}
    reported = {_made(fact): fact.data for fact in history.of("reports")}
    named = {_made(fact): fact.data for fact in history.of("names survivors")}
    ends = {fact.incarnation for fact in history.of("crashes", "stops") if fact.who == COORDINATOR}
    for made in sorted({_made(fact) for fact in history.of("broadcasts")}):
        incarnation, attempt = made
        if made not in reported:
            if incarnation not in ends:
                yield f"attempt {attempt} has no end"
        elif reported[made][0] != (made in released):
            yield f"attempt {attempt}: reported applied={reported[made][0]}, released={made in released}"
        elif reported[made][0] and reported[made][1] != named[made]:
            yield f"attempt {attempt}: reported survivors are not those of the sum"


def _made(fact: Fact) -> tuple[int, int]:
    """Return which process made which attempt; two coordinators at once may have one of the same number open."""
    return fact.incarnation, fact.attempt


def check_numbers(history: History) -> Iterator[str]:
    """Numbers rise as long as the volume is kept; without it, at most the last release is lost."""
    volume, volumes = 0, dict[int, int]()  # of each incarnation
    highest: dict[int, tuple[int, int]] = {}  # by volume: incarnation and attempt of its last broadcast
    last_round = -1
    for fact in history.facts:
        if fact.what == "loses its volume":
            volume += 1
        elif fact.what == "starts" and fact.who == COORDINATOR:
            volumes[fact.incarnation] = volume
        elif fact.what == "releases":
            last_round = max(last_round, fact.round)
        elif fact.what == "broadcasts":
            mine = volumes[fact.incarnation]
            yield from _check_broadcast(history, fact, highest.get(mine, (0, -1)), last_round)
            highest[mine] = _made(fact)


def _check_broadcast(history: History, fact: Fact, before: tuple[int, int], last_round: int) -> Iterator[str]:
    if _made(fact) != before and fact.attempt <= before[1]:
        yield f"attempt {fact.attempt} is used again"
    if fact.round < last_round:
        yield f"round {fact.round} is broadcast again after the sum of round {last_round}"
    if not fact.round <= fact.attempt < history.attempts:
        yield f"the plan has no attempt {fact.attempt} of round {fact.round}"


def check_end(history: History) -> Iterator[str]:
    """The job ends within its time, with what it says, and without success only while faults excuse it."""
    for fact in history.of("defect"):
        yield f"{fact.who}: {fact.data}"
    for fact in history.of("stops for good"):
        if fact.who != COORDINATOR:
            yield f"{fact.who} is lost for good: {fact.data}"
    ends = [fact for fact in history.of("finishes", "fails", "stops for good") if fact.who == COORDINATOR]
    if not history.ended or not ends:
        yield f"the job hangs: nothing ended it in {history.seconds:.0f} s and {history.steps} steps"
        return
    newest = [fact for fact in ends if fact.incarnation == max(end.incarnation for end in ends)]
    last = newest[0]  # what comes after it is the process's end
    yield from _check_result(history, last) if last.what == "finishes" else _check_failure(history, last)


def _check_result(history: History, fact: Fact) -> Iterator[str]:
    reason, standing, adapter = fact.data
    if not reason and standing.rounds != history.rounds:
        yield f"complete after {standing.rounds} of {history.rounds} rounds"
    if reason == "AttemptsExhausted" and standing.attempts != history.attempts:
        yield f"attempts are said to be used up, {standing.attempts} of {history.attempts} are"
    if reason not in {"", "AttemptsExhausted"} and fact.time > history.late:
        yield f"ended early ({reason}) long after the last fault"
    most = max(history.charged.values())
    if not most <= standing.charged <= standing.attempts:
        yield f"{standing.charged} attempts are said to be charged, a ledger holds {most}"
    by_number = sorted(history.of("releases"), key=lambda release: release.attempt)
    last = {release.round: release.data for release in by_number}
    if adapter != applied(last[number] for number in range(standing.rounds)):
        yield "the adapter does not hold exactly one sum of each round"


def _check_failure(history: History, fact: Fact) -> Iterator[str]:
    code, why = fact.data
    used_up = "all attempts are used" in why
    if fact.what != "fails" or code != "QUORUM_LOST":
        yield f"the coordinator stops for good: {fact.data}"
    elif not used_up and fact.time > history.late:
        yield f"failed ({why}) long after the last fault"


def applied(totals: Iterable[np.ndarray]) -> bytes:
    """Return the adapter that these sums give, by Python's integers."""
    model = [0] * 5
    for total in totals:
        values = total.tolist()
        start = 0 if len(values) == 2 else 2
        for index, value in enumerate(values, start):
            model[index] = (model[index] + value) % 2**32
    return b"".join(value.to_bytes(4, "little") for value in model)


def counts(history: History) -> dict[str, int]:
    """Return how much happened: attempts, releases, aborts, starts."""
    tally: dict[str, int] = defaultdict(int)
    tally["attempts"] = len({(fact.attempt, fact.incarnation) for fact in history.of("broadcasts")})
    tally["releases"] = len(history.of("releases"))
    tally["aborts"] = sum(not fact.data[0] for fact in history.of("reports"))
    tally["crashes"] = len(history.of("crashes"))
    tally["restarts"] = sum(fact.incarnation > 1 for fact in history.of("starts"))
    return dict(tally)


RULES = (
    check_ledgers,
    check_logs,
    check_order,
    check_once,
    check_sums,
    check_cut_charges,
    check_newest,
    check_attempts,
    check_numbers,
    check_end,
)
