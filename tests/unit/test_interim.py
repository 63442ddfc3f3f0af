"""A suite that is interrupted between two members and goes on gives what it would have given."""

import dataclasses
import functools
import sys
from pathlib import Path

import pytest
import torch

from spikeproof.decoders import Count
from spikeproof.encoders import Bernoulli, Latency
from spikeproof.evaluation.columns import columns
from spikeproof.evaluation.interim import Interim
from spikeproof.evaluation.outcomes import Attacked
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.keys import Key
from spikeproof.networks import MLP, ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from shortened import brief_suites

X = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    with brief_suites({"steps": 10, "restarts": 1, "refine": 10, "queries": 50}):
        yield


def suited(encoder, **resumption):
    model = ModelSpec(encoder, MLP((6,)), LIF(), ATan(), Count(), (1, 4, 4), 3).build(Key.of(1)).eval()
    y = model(X, Key.of(0).for_rows(range(12))).argmax(1)
    clean = evaluate_clean(model, X, y, Key.of(2), draws=2 if model.stochastic else 1)
    return evaluate_suite(
        model, "quick", Linf(0.05), X, y, clean, Key.of(3), draws=2 if model.stochastic else 1, **resumption
    )


@functools.cache
def uninterrupted(encoder):
    return suited(encoder)


@pytest.mark.parametrize("encoder", [Latency(4), Bernoulli(4)], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_suite_gives_what_it_would_have_given(encoder, after, tmp_path):
    path = tmp_path / "state"

    def killed(interim, total):
        if len(interim.members) == after:
            interim.save(path, "this suite")
            raise KilledError

    whole, ran = uninterrupted(encoder), []
    with pytest.raises(KilledError):
        suited(encoder, on_member=killed)
    found = suited(
        encoder,
        interim=Interim.resume(path, "this suite", torch.device("cpu")),
        on_member=lambda interim, total: ran.append(interim.members[-1]["name"]),
    )
    assert ran == [member["name"] for member in whole.members[after:-1]]
    for name in columns(Attacked):
        assert torch.equal(
            getattr(found.attacked, name).nan_to_num(7), getattr(whole.attacked, name).nan_to_num(7)
        )
    assert torch.equal(found.broken_by, whole.broken_by)
    assert [m["broke"] for m in found.members] == [m["broke"] for m in whole.members]
    assert [m["attacked"] for m in found.members] == [m["attacked"] for m in whole.members]


def test_a_state_that_is_damaged_or_of_another_suite_is_not_gone_on_from(tmp_path):
    path, kept = tmp_path / "state", []
    suited(Latency(4), on_member=lambda interim, total: kept.append(interim) or interim.save(path, "one"))
    device = torch.device("cpu")
    assert Interim.resume(path, "another", device) is None
    assert Interim.resume(tmp_path / "none", "one", device) is None
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="damaged"):
        assert Interim.resume(path, "one", device) is None


def test_every_field_of_the_state_is_kept(tmp_path):
    path, kept = tmp_path / "state", []
    suited(Latency(4), on_member=lambda interim, total: kept.append(interim))
    kept[0].save(path, "one")
    found = Interim.resume(path, "one", torch.device("cpu"))
    assert [field.name for field in dataclasses.fields(Attacked) if field.name not in columns(Attacked)] == [
        "draws",
        "nested",
    ]
    assert (found.worst.draws, found.worst.nested) == (kept[0].worst.draws, kept[0].worst.nested)
