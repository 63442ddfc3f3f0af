"""Laws of levels that answers give away: codes of levels are found behind a function, and nothing else is."""

import pytest
import torch

import spikeproof as sp
from spikeproof.attacks.answers import foundlevels
from spikeproof.attacks.answers.foundlevels import FoundLevels, levels_of
from spikeproof.attacks.answers.reachable import level_code
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import plan

KEY, LINF = sp.Key.of(0), sp.Linf(0.2)
IMAGES = sp.Key.of(5).uniform((6, 1, 6, 6))
FOUND = [sp.Latency(4), sp.EarlyBurst(4), sp.LateBurst(4), sp.QuantisedDirect(4), sp.Reversed(sp.Latency(4))]


def built(encoder, decoder=None):
    spec = sp.ModelSpec(
        encoder, sp.MLP((30,)), sp.LIF(), sp.ATan(), decoder or sp.MeanPotential(), (1, 6, 6), 4
    )
    return spec.build(KEY).eval()


def hidden(net):
    return lambda images, key=None: net(images)


@pytest.mark.parametrize("encoder", FOUND, ids=str)
def test_the_levels_of_a_code_are_found_behind_a_function(encoder):
    found = levels_of(hidden(built(encoder)), IMAGES)
    values = torch.linspace(0, 1, 1009)
    spikes = encoder(values.view(-1, 1, 1, 1)).flatten(2)[..., 0].T
    level = found.level(values)
    assert torch.equal(level[1:] != level[:-1], (spikes[1:] != spikes[:-1]).any(1))
    every = torch.arange(len(found.edges))
    assert torch.equal(found.level(found.value(every)), every)


def test_rounding_of_logits_or_of_pixels_hides_no_level():
    net = built(sp.Latency(4))
    assert len(levels_of(lambda x, key=None: net(x).half().float(), IMAGES).edges) == 4
    eight = levels_of(lambda x, key=None: built(sp.Direct(2))((x * 15).round() / 15), IMAGES)
    assert torch.allclose(eight.edges, (torch.arange(15) + 0.5) / 15, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        lambda x, key=None: x.flatten(1) @ torch.ones(36, 3),
        lambda x, key=None: x.new_zeros(len(x), 3),
        hidden(built(sp.Direct(4))),
    ],
)
def test_where_there_are_no_levels_none_are_found(model):
    assert levels_of(model, IMAGES) is None
    clean = IMAGES[:3]
    found = sp.LevelSearch(queries=50)(LINF)(model, clean, torch.tensor([0, 1, 2]), KEY)
    assert torch.equal(found.x_adv, clean)


@pytest.mark.parametrize("encoder", FOUND, ids=str)
def test_the_search_comes_close_to_the_one_that_knows_the_code(encoder):
    net = built(encoder)
    y = net(IMAGES).argmax(1)
    knows = level_code(encoder) is not None
    known = (sp.EncoderAwareSearch() if knows else sp.PGD())(LINF)(net, IMAGES, y, KEY).success
    plain = sp.LevelSearch(queries=2000, probes=24)(LINF)(hidden(net), IMAGES, y, KEY)
    assert LINF.contains(plain.x_adv, IMAGES).all()
    assert plain.success.sum() >= known.sum() - 1
    assert (plain.queries <= 2 * 2000).all()


def test_neither_the_batch_nor_the_other_images_matter():
    net = hidden(built(sp.Latency(4)))
    y = net(IMAGES).argmax(1)
    attack, key = sp.LevelSearch(queries=300, probes=8)(LINF), KEY.for_rows(range(len(IMAGES)))
    whole = attack(net, IMAGES, y, key)
    for row in range(len(IMAGES)):
        one = torch.tensor([row])
        alone = attack(net, IMAGES[one], y[one], key.take(one))
        assert torch.equal(alone.x_adv[0], whole.x_adv[row])


@pytest.mark.parametrize(("option", "values"), [("queries", (60, 600)), ("probes", (4, 30))])
def test_every_option_reaches_the_attack(option, values):
    net = hidden(built(sp.Latency(4)))
    y, small = net(IMAGES).argmax(1), sp.Linf(0.02)
    attacks = (sp.LevelSearch(**{"queries": 60, option: value})(small) for value in values)
    first, second = (attack(net, IMAGES, y, KEY) for attack in attacks)
    assert not torch.equal(first.queries, second.queries)


def test_suites_search_the_levels_of_functions_and_of_known_codes():
    net = built(sp.Latency(4))
    unknown = [member.name for member in plan("standard", hidden(net), LINF)]
    assert "level-search" in unknown
    assert "encoder-aware" not in unknown
    search, again, last, longer, _ = plan("standard", net, LINF)[-5:]
    assert search.name == "level-search"
    assert (again.recipe, again.after) == (search.recipe, search.name)
    assert (last.recipe, last.after) == (search.recipe, again.name)
    assert longer.after == search.name
    assert 0 < longer.share < 1
    assert longer.recipe.queries > search.recipe.queries
    for encoder, searched in ((sp.QuantisedDirect(4), True), (sp.Direct(4), False), (sp.Bernoulli(4), False)):
        names = [member.name for member in plan("standard", built(encoder), LINF)]
        assert ("level-search" in names) == searched


def test_a_known_code_is_searched_over_its_own_levels_by_gradients_of_its_spikes(monkeypatch):
    """Its levels are not looked for, and it falls at least as often as the function made of it."""
    net = built(sp.Latency(4))
    y = net(IMAGES).argmax(1)
    attack = sp.LevelSearch(queries=600, probes=24)(sp.Linf(0.1))
    plain = attack(hidden(net), IMAGES, y, KEY)
    asked = []
    monkeypatch.setattr(net, "read", lambda spikes, read=net.read: asked.append(1) or read(spikes))
    monkeypatch.setattr(foundlevels, "levels_of", None)
    known = attack(net, IMAGES, y, KEY)
    assert asked
    assert known.success.sum() >= plain.success.sum()
    assert sp.Linf(0.1).contains(known.x_adv, IMAGES).all()


def test_settings_that_mean_nothing_are_refused():
    for settings in ({"queries": 0}, {"probes": 0}):
        with pytest.raises(InputError, match="at least one"):
            sp.LevelSearch(**settings)(LINF)
    with pytest.raises(InputError, match="interval to every pixel"):
        sp.LevelSearch()(sp.L2(1.0))
    assert FoundLevels(torch.zeros(0)).level(IMAGES).unique().tolist() == [0]
