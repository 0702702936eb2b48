"""The attacks, and the words of the check that refuses each; none where nothing is refused and nothing is learnt."""

from __future__ import annotations

from dataclasses import dataclass

from attacks import attempts, rosters, views
from attacks.views import Attack


@dataclass(frozen=True)
class Case:
    """An attack and what an honest silo says of it (a part of its reason); "" when it has nothing to refuse."""

    attack: Attack
    refused: str = ""


ATTACKS = {
    # Share kinds and views within one attempt
    "reads-along": Case(views.reads_along),
    "asks-for-the-other-kind": Case(views.asks_for_the_other_kind),  # an ended silo passes messages over
    "split-views": Case(views.split_views, "saw are not signed for this attempt"),
    "split-views-few-signatures": Case(views.split_views_with_few_signatures, "4 silos, 5 are needed"),
    "second-survivor-set": Case(views.second_survivor_set, "came while waiting for SurvivorProof"),
    "unequal-deliveries": Case(views.unequal_deliveries, "one that did not share"),
    "few-sharers": Case(views.few_sharers, "3 silos, 5 are needed"),
    "small-survivor-sets": Case(views.small_survivor_sets, "4 silos, 5 are needed"),
    "low-threshold": Case(views.low_threshold, "threshold 4 is below 5"),
    "second-delivery": Case(views.second_delivery, "came while waiting for Survivors"),
    # Rosters, models, reflection
    "invented-keys": Case(rosters.invented_keys, "the keys of silo silo-01 are not signed"),
    "unpinned-silos": Case(rosters.unpinned_silos, "silo silo-91 is not pinned"),
    "small-roster": Case(rosters.small_roster, "3 silos, 5 are needed"),
    "stolen-names": Case(rosters.stolen_names, "the keys of silo silo-01 are not signed"),
    "replayed-roster": Case(rosters.replayed_roster, "are not signed for this attempt"),
    "model-inconsistency": Case(rosters.model_inconsistency, "are not signed for this attempt"),
    "reflection": Case(rosters.reflection, "a silo or a key is listed twice"),
    # Across attempts and restarts
    "replayed-confirmations": Case(attempts.replayed_confirmations, "saw are not signed for this attempt"),
    "masking-key-of-a-later-attempt": Case(attempts.masking_key_of_a_later_attempt),
    "differencing": Case(attempts.differencing),
    "asks-again-after-a-restart": Case(attempts.asks_again_after_a_restart, "attempt 0 was answered before"),
    "more-attempts-than-reserved": Case(attempts.more_attempts_than_reserved, "all 8 reserved releases"),
}
