"""The stand-in uses answers of the model alone: equal answers give equal images; few queries suffice."""

import pytest
import torch

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.made_of import stand_in
from spikeproof.attacks.made_of.stand_in import StandIn
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats import L0, L1, L2, Linf

KEY = Key.of(5).for_rows(range(8))
X, Y = 0.3 + 0.4 * Key.of(1).uniform((8, 1, 6, 6)), torch.zeros(8, dtype=torch.int64)
W = Key.of(2).normal((1, 6, 6)).sign() * (0.5 + Key.of(3).uniform((1, 6, 6)))
EDGE = (X * W).flatten(1).sum(1) - 0.06 * W.abs().sum()  # falls at 0.06 along the best direction


def answers(images, key=None):
    """Each image belongs to class 0 up to a distance of 0.06 from the clean one, and to class 1 beyond it."""
    near = (images[:, None] - X).square().flatten(2).sum(2).argmin(1)
    score = (images * W).flatten(1).sum(1) - EDGE[near]
    return torch.stack([score, -score, torch.full_like(score, -9.0)], 1)


def rounded(images, key=None):
    return torch.nn.functional.one_hot(answers(images).argmax(1), 3).float()


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def found(model, threat=Linf(0.1), queries=150):
    return StandIn(queries=queries)(threat)(model, X, Y, KEY)


@pytest.mark.parametrize(
    "change",
    [lambda x: answers(Hidden.apply(x)), lambda x: answers(x.detach()), lambda x: answers(x) * 2.0**-24],
    ids=["wrong sign", "no gradient", "other scale"],
)
def test_gradients_and_scale_change_no_image(change):
    whole, other = found(answers), found(lambda x, key=None: change(x))
    assert torch.equal(whole.x_adv, other.x_adv)
    assert torch.equal(whole.queries, other.queries)


def test_a_masked_class_hides_nothing():
    def masked(images, key=None):
        return torch.cat([answers(images), images.new_full((len(images), 1), -torch.inf)], 1)

    assert found(answers).success.all()
    assert found(masked).success.all()


def test_the_stand_in_fools_a_model_that_answers_one_hot():
    """Square attack with as many queries fools fewer images, because no query changes the one-hot answer."""
    ours, square = found(rounded, queries=400), SquareSearch(queries=400)(Linf(0.1))(rounded, X, Y, KEY)
    assert Linf(0.1).contains(ours.x_adv, X).all()
    assert ours.success.sum() >= 6 > square.success.sum()


def test_examples_are_taken_in_parts_where_memory_is_short(monkeypatch):
    whole = found(answers)
    monkeypatch.setattr(stand_in, "ROOM", 1)
    parts = found(answers)
    assert torch.equal(whole.x_adv, parts.x_adv)
    assert torch.equal(whole.losses.nan_to_num(-7), parts.losses.nan_to_num(-7))


def test_images_outside_the_budget_inform_the_fit_and_never_count_as_success():
    """The model is queried beyond the budget, where its class changes, and no image counts as fooled."""
    asked = []

    def far(images, key=None):
        away = (images[:, None] - X).abs().flatten(2).amax(2).amin(1)
        asked.append(away.max())
        return torch.nn.functional.one_hot((away > 0.11).long(), 2).float()

    result = found(far)
    assert max(asked) > 0.11
    assert not result.success.any()
    assert (result.fell == -1).all()


@pytest.mark.parametrize("threat", [L1(1.0), L0(2)], ids=repr)
def test_the_stand_in_refuses_threats_other_than_linf_and_l2(threat):
    with pytest.raises(InputError, match="Linf and L2"):
        StandIn()(threat)


def test_the_stand_in_searches_an_l2_ball():
    threat = L2(1.0)
    result = found(answers, threat)
    assert threat.contains(result.x_adv, X).all()
    assert result.success.all()
