"""Every member of every kind in the catalogue is under the laws of its kind; a new one adds a row.

The table below says where the rows of a kind are. A member without one fails here by its name.
"""

import sys
from pathlib import Path

import pytest

from spikeproof.catalogue.names import PARTS

sys.path.insert(0, str(Path(__file__).parent))
from completeness import check, of_kind, rows

LAWS = {  # kind -> tables with its rows, as file:TABLE
    "Encoder": (
        "laws/test_encoders.py:CODES",
        "laws/test_encoders.py:SIGNALS",
        "laws/test_encoders.py:OF_EVENTS",
        "laws/test_spiketimes.py:CODES",
    ),
    "BackwardRule": ("laws/test_encoders.py:RULES",),
    "Surrogate": ("laws/test_surrogates.py:MEMBERS",),
    "Neuron": (
        "laws/test_neurons.py:NEURONS",
        "laws/test_neuron_members.py:NEURONS",
        "laws/test_spiketimes.py:SPECS.neuron",
        "unit/test_conversion.py:NEURONS",
        "unit/test_architectures.py:ACTIVATIONS",
        "laws/test_event_driven.py:NEURONS",
    ),
    "Reset": ("laws/test_neurons.py:RESETS",),
    "Architecture": (
        "laws/test_networks.py:ARCHITECTURES",
        "unit/test_recurrent.py:SIZES",
        "laws/test_spiketimes.py:SPECS.network",
    ),
    "Decoder": (
        "laws/test_decoders.py:DECODERS",
        "laws/test_exits.py:ALL",
        "laws/test_spiketimes.py:SPECS.decoder",
    ),
    "Loss": ("laws/test_losses.py:LOSSES",),
    "GradientRule": ("laws/test_gradients.py:GRADIENTS", "laws/test_event_driven.py:RULES"),
    "Rule": ("laws/test_learning.py:RULES",),
    "Recipe": ("laws/test_hostile_settings.py:ROWS", "laws/test_event_catalogue.py:ON_EVENTS"),
    "Others": ("laws/test_transfer_choices.py:CHOICES",),
    "InTorchattacks": ("interop/test_peer_members.py:IN_TORCHATTACKS",),
    "InFoolbox": ("interop/test_peer_members.py:IN_FOOLBOX",),
    "Objective": ("laws/test_attacks.py:RECIPES.objective", "laws/test_objectives.py:OBJECTIVES"),
    "Oracle": ("laws/test_estimates_and_composites.py:ESTIMATES", "laws/test_attacks.py:ORACLES"),
    "Step": ("laws/test_steps.py:STEPS",),
    "Schedule": ("laws/test_steps.py:SCHEDULES",),
    "Targets": ("laws/test_attacks.py:TARGETS",),
    "Probe": ("laws/test_probes.py:PROBES",),
    "Corruption": ("laws/test_corruptions.py:CORRUPTIONS",),
    "Certificate": ("laws/test_certificates.py:CERTIFICATES",),
    "Analysis": ("unit/test_analyse_cells.py:ANALYSES",),
    "TrainDistance": ("laws/test_spike_trains.py:DISTANCES",),
    "Threat": (
        "laws/test_threats.py:THREATS",
        "laws/test_spike_threats.py:THREATS",
        "laws/test_shifts.py:THREATS",
        "laws/test_physical.py:THREATS",
        "laws/test_windows.py:THREATS",
    ),
    "DatasetSpec": ("laws/test_data_sets.py:ROWS",),
    "Sample": ("laws/test_samples.py:SAMPLES",),
    "Trigger": ("laws/test_backdoors.py:TRIGGERS",),
}
WITHOUT = {  # kind -> name -> why it has no row
    "Rule": {
        "time-coded": "learns networks of spike times alone: laws/test_spiketimes.py",
        "ibp-training": "learns models with known bounds alone: laws/test_defences.py",
        "as-saved": "learns nothing: unit/test_given.py",
    },
    "Certificate": {
        "bernoulli-smoothing": "votes over draws, by exact probabilities: laws/test_certificates.py",
        "gaussian-smoothing": "votes over draws, by a closed form: laws/test_certificates.py",
    },
    "Recipe": {
        "suite": "runs recipes that have rows, by evaluate_suite: laws/test_suites.py",
        "chosen": "runs one recipe, once chosen: laws/test_estimates_and_composites.py",
        "universal": "is made on other images: laws/test_universal.py",
        "stored": "reads a file and searches nothing: unit/test_stored_images.py",
        "universal-patch": "is trained on other images first: laws/test_physical.py",
        "torchattacks": "its rows are those of its own kind",
        "foolbox": "its rows are those of its own kind",
    },
    "DatasetSpec": {"tonic": "is read by another package: unit/test_own_recordings.py"},
    "InTorchattacks": {"AutoAttack": "takes minutes; its four members have rows"},
}


@pytest.mark.parametrize("kind", [kind.__name__ for kind in PARTS])
def test_every_member_of_the_catalogue_has_a_row_in_the_law_table_of_its_kind(kind):
    assert kind in LAWS, f"the kind {kind} has no law table"
    check(kind, of_kind(kind), list(rows(LAWS[kind])), WITHOUT.get(kind, ()))


class Here:
    pass


class New:
    pass


def test_a_member_without_a_row_fails_by_its_name():
    table = {"here": Here, "new-member": New}
    check("Part", table, [Here(), New()])
    check("Part", table, [Here, "new-member"])
    check("Part", table, [Here()], {"new-member": "for a reason"})
    with pytest.raises(AssertionError, match="Part without a row in their law table: new-member"):
        check("Part", table, [Here()])
    with pytest.raises(AssertionError, match="here, new-member"):
        check("Part", table, [])


@pytest.mark.parametrize("name", ["here", "gone"])
def test_an_exception_that_is_none_fails_by_its_name(name):
    with pytest.raises(AssertionError, match=f"excepted in vain.*: {name}"):
        check("Part", {"here": Here}, [Here()], {name: "once it had no row"})


def test_a_member_that_joins_the_catalogue_is_missed_in_every_kind():
    for kind in PARTS:
        with pytest.raises(AssertionError, match="joined-today"):
            check(
                kind.__name__,
                {**PARTS[kind], "joined-today": New},
                list(rows(LAWS[kind.__name__])),
                WITHOUT.get(kind.__name__, ()),
            )
