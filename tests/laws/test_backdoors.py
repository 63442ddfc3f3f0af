"""Triggers, poisoned data, and tests of models for backdoors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import gamma

from spikeproof.auditing.backdoors import (
    MarginTest,
    _chance,
    _surprise,
    backdoor_metrics,
    margin_test,
)
from spikeproof.catalogue.names import PARTS
from spikeproof.datasets import Digits, ImageFolder, Randman
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.poisoning import BadNets, Poisoned, Refool, Trigger
from spikeproof.specs import build, describe

TRIGGERS = [
    BadNets(),
    BadNets(side=1, margin=0, value=0.5),
    Refool(),
    Refool(ghosts=1.0, same_depth=0.0),
    Refool(ghosts=0.0, same_depth=1.0),
    Refool(ghosts=0.0, same_depth=0.0),
]
X, PICTURES = Key.of(0).uniform((6, 3, 8, 9)), Key.of(1).uniform((4, 3, 8, 9))
KEY = Key.of(2).for_rows(range(6))


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_a_trigger_changes_images_within_the_box_and_belongs_to_examples(trigger):
    made = trigger(X, PICTURES, KEY)
    assert made.shape == X.shape
    assert ((made >= 0) & (made <= 1)).all()
    assert (made != X).flatten(1).any(1).all()
    assert torch.equal(trigger(X, PICTURES, KEY), made)
    some = torch.tensor([4, 1])
    alone = trigger(X[some], PICTURES, KEY.take(some))
    assert torch.allclose(alone, made[some], atol=1e-6)
    assert trigger(X[:0], PICTURES, KEY.take(torch.tensor([], dtype=torch.int64))).shape == (0, 3, 8, 9)
    assert build(Trigger, describe(trigger, PARTS), PARTS) == trigger


def test_a_reflection_at_the_same_depth_is_the_closed_form_in_linear_light():
    """One black and one white image: what comes through, and what is reflected, alone."""
    trigger = Refool(ghosts=0.0, same_depth=1.0)
    white, black = torch.ones(6, 1, 4, 4), torch.zeros(6, 1, 4, 4)
    through = trigger(white, black[:1], KEY) ** 2.2
    reflected = trigger(black, white[:1], KEY) ** 2.2
    assert torch.allclose(through + reflected, white, atol=1e-5)  # alpha and 1 - alpha
    assert ((through >= 0.55 - 1e-5) & (through <= 0.95 + 1e-5)).all()
    assert through[:, 0, 0, 0].unique().numel() == 6


def test_a_ghost_is_seen_twice():
    picture = torch.zeros(1, 1, 9, 9)
    picture[0, 0, 2, 2] = 1.0
    made = Refool(ghosts=1.0, same_depth=0.0, farthest=3)(torch.zeros(6, 1, 9, 9), picture, KEY)
    assert ((made > 0).flatten(1).sum(1) == 2).all()
    assert (made[:, 0, 2, 2] > 0).all()


def test_a_picture_out_of_focus_is_spread():
    picture = torch.zeros(1, 1, 9, 9)
    picture[0, 0, 4, 4] = 1.0
    black = torch.zeros(6, 1, 9, 9)
    made = Refool(ghosts=0.0, same_depth=0.0)(black, picture, KEY)
    assert (made[:, 0, 4, 5] > 0).all()
    assert (made[:, 0, 4, 4] < 1).all()


@pytest.mark.parametrize(("trigger", "clean"), [(BadNets(side=2, margin=0), False), (Refool(), True)])
def test_poison_changes_the_share_that_it_says_and_nothing_else(trigger, clean):
    before, spec = Digits().load(), Poisoned(Digits(), trigger, share=0.25, target=3)
    after = spec.load()
    moved = (before.train.images != after.train.images).flatten(1).any(1)
    allowed = (before.train.labels == 3) == clean
    assert not moved[~allowed].any()
    assert abs(int(moved.sum()) - 0.25 * int(allowed.sum())) <= 1
    assert (after.train.labels[moved] == 3).all()
    assert torch.equal(after.train.labels[~moved], before.train.labels[~moved])
    assert torch.equal(after.train.ids, before.train.ids)
    for part in ("validation", "test"):
        for name in ("images", "labels", "ids"):
            assert torch.equal(getattr(getattr(before, part), name), getattr(getattr(after, part), name))
    assert str(int(moved.sum())) in after.notes[-1]
    assert after.sha256 != before.sha256
    assert torch.equal(after.train.images, spec.load().train.images)
    other = replace(spec, seed=1).load()
    assert other.sha256 != after.sha256
    assert not torch.equal(other.train.images, after.train.images)
    none = replace(spec, share=0.0).load()
    assert torch.equal(none.train.images, before.train.images)
    assert torch.equal(none.train.labels, before.train.labels)


def test_reflections_are_of_other_classes_or_of_another_data_set():
    data = Digits().load()
    others = Refool(pictures=50).material(data, 3)
    own = data.train.images[data.train.labels == 3].flatten(1)
    assert len(others) == 50
    assert not (others.flatten(1)[:, None] == own[None]).all(2).any()
    assert Refool(reflections=Digits(), pictures=7).material(data, 3).shape == (7, 1, 8, 8)


def by_corner(images, key=None):
    """A model with a backdoor: class 1 where the last pixel is white, and class 2 otherwise."""
    corner = images[:, 0, -1, -1]
    return torch.stack([0 * corner, corner - 0.5, 0.5 - corner], 1)


def test_the_attack_success_rate_counts_images_of_other_classes_with_and_without_the_trigger():
    x = torch.zeros(8, 1, 3, 3)
    x[0, 0, -1, -1] = 1.0  # answered with the target class without a trigger
    y = torch.tensor([2, 2, 2, 2, 0, 1, 1, 2])
    found = backdoor_metrics(by_corner, x, BadNets(side=1, margin=0)(x, x[:0], Key.of(0)), y, 1, batch_size=3)
    assert found["others"] == 6
    assert found["target_share"] == pytest.approx(1 / 6)
    assert found["target_share_triggered"] == 1.0
    assert found["accuracy_triggered"] == 0.0
    assert found["triggered_low"] < 1.0 == found["triggered_high"]
    assert backdoor_metrics(by_corner, x, x, y, 1)["target_share_triggered"] == found["target_share"]


def linear(weights):
    return lambda images, key=None: images.flatten(1) @ weights.T


def test_the_margins_of_a_linear_model_are_those_of_its_weights():
    """Two classes differ by w_a - w_b, whose maximum over the box is the sum of positive parts."""
    weights = torch.zeros(4, 6)
    weights[0], weights[1, :3], weights[2, 3:] = 1.0, 2.0, 1.5
    found = margin_test(linear(weights), (1, 2, 3), 4, starts=8, steps=60)
    # class 0 gains least over all others; class 3 never wins by more than 0
    assert found.margins[1] == pytest.approx(3.0, abs=0.05)  # only its three pixels are white
    assert found.margins[2] == pytest.approx(1.5, abs=0.05)
    assert found.margins[3] == pytest.approx(0.0, abs=1e-6)


def test_a_planted_class_is_found_and_equal_classes_are_not():
    weights = Key.of(4).normal((8, 60))
    weights = weights / weights.norm(dim=1, keepdim=True)
    fair = margin_test(linear(weights), (1, 6, 10), 8, starts=4, steps=30)
    assert not fair.found
    weights[5] *= 6
    planted = margin_test(linear(weights), (1, 6, 10), 8, starts=4, steps=30)
    assert (planted.suspect, planted.found) == (5, True)


def test_the_surprise_of_a_margin_is_that_of_the_gamma_distribution_of_the_others():
    margins = np.array([2.0, 1.0, 1.5, 0.7, 3.1])
    rest = margins[:4]
    below = gamma.cdf(3.1, rest.mean() ** 2 / rest.var(), scale=rest.var() / rest.mean())
    assert float(_surprise(torch.tensor(margins)[None])) == pytest.approx(1 - below**5, abs=1e-9)


@pytest.mark.parametrize(("classes", "shape"), [(5, 2.0), (10, 5.0), (10, 50.0), (30, 5.0)])
def test_equal_classes_are_suspected_as_often_as_the_level_says(classes, shape):
    """Margins of one gamma distribution: 60 sets, of which about 3 have a p-value below 5 %."""
    draws = torch.from_numpy(np.random.default_rng(1).gamma(shape, size=(60, classes)))
    p = [_chance(each, int(each.argmax()), Key.of(0)) for each in draws]
    assert sum(value < 0.05 for value in p) <= 8  # by chance once in 250
    assert 0.3 < float(np.mean(p)) < 0.7


def test_gradients_come_from_a_substitute_and_margins_from_the_model():
    weights = torch.eye(5).repeat(1, 2)

    def masked(images, key=None):
        return linear(weights)(images.detach())

    blind = margin_test(masked, (1, 2, 5), 5, starts=1, steps=20)
    seeing = margin_test(masked, (1, 2, 5), 5, starts=1, steps=20, through=linear(weights))
    assert max(blind.margins) < 1.7
    assert min(seeing.margins) > 1.7  # of 2
    assert seeing.p_value > 0.05


def test_a_model_with_equal_margins_is_not_suspected_and_one_odd_margin_is():
    assert MarginTest((1.0,), 0, 0.04).found
    constant = margin_test(lambda images: torch.ones(len(images), 5), (1, 2, 2), 5, starts=1, steps=1)
    assert constant.margins == (0.0,) * 5
    assert not constant.found


def no_classes(data_set=Digits()):
    return replace(data_set.load(), train=replace(data_set.load().train, labels=torch.full((1257,), 3)))


BAD = {
    "share": lambda: Poisoned(share=1.5),
    "poisoned twice": lambda: Poisoned(of=Poisoned()),
    "a name in place of a data set": lambda: Poisoned(of="digits"),
    "a name in place of a trigger": lambda: Poisoned(of=Digits(), trigger="badnets"),
    "half a class": lambda: Poisoned(of=Digits(), target=1.5),
    "a folder in place of a data set": lambda: Refool(reflections="pictures"),
    "target class": lambda: Poisoned(of=Digits(), target=10).load(),
    "events": lambda: Poisoned(of=Randman(classes=3, units=4, steps=9, examples=40)).load(),
    "side": lambda: BadNets(side=0),
    "value": lambda: BadNets(value=2.0),
    "square outside": lambda: BadNets(side=9)(X, PICTURES, KEY),
    "no images": lambda: BadNets()(X.flatten(1), PICTURES, KEY),
    "shares": lambda: Refool(ghosts=0.9, same_depth=0.9),
    "blur": lambda: Refool(blur=0.0),
    "no pictures": lambda: Refool()(X, PICTURES[:0], KEY),
    "pictures of another size": lambda: Refool()(X, PICTURES[..., 1:], KEY),
    "no class but the target": lambda: Refool().material(no_classes(), 3),
    "folder that does not exist": lambda: Refool(reflections=ImageFolder(path="/nowhere")).material(
        Digits().load(), 3
    ),
    "target class alone": lambda: backdoor_metrics(by_corner, X[:, :1], X[:, :1], torch.ones(6), 1),
    "sizes": lambda: backdoor_metrics(by_corner, X, X[:3], torch.ones(6), 0),
    "three classes": lambda: margin_test(by_corner, (1, 3, 3), 3),
    "other classes": lambda: margin_test(by_corner, (1, 3, 3), 5),
    "no steps": lambda: margin_test(by_corner, (1, 3, 3), 5, steps=0),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_a_hint(make):
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.try_
