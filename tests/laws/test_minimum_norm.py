"""Laws of every minimum-norm attack, a search for the nearest adversarial image."""

from dataclasses import replace

import pytest
import torch

from spikeproof.attacks.nearest.decision import Boundary, HopSkipJump
from spikeproof.attacks.nearest.linearised import FAB, FABT, DeepFool
from spikeproof.attacks.nearest.minimum import MinimumNorm, NormRecipe
from spikeproof.attacks.nearest.penalised import EAD, CarliniWagner
from spikeproof.attacks.nearest.sparse import JSMA, OnePixel, SigmaZero, SparseFool
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.specs import describe
from spikeproof.surrogates import ATan
from spikeproof.threats import L0, L1, L2, Linf

DUAL = {Linf: 1, L2: 2, L1: torch.inf}
SEARCHES = [
    (DeepFool(), Linf, 1.01),
    (DeepFool(), L2, 1.01),
    (FAB(steps=20), Linf, 1.01),
    (FAB(steps=20), L2, 1.01),
    (FAB(steps=20), L1, 1.01),
    (FABT(steps=20), L2, 1.01),
    (CarliniWagner(steps=60, searches=5), L2, 1.02),
    (EAD(steps=60, searches=5), L1, 1.3),
    (SparseFool(), L1, 3.5),  # its plane lies up to `lam` times beyond the boundary
    (Boundary(steps=900), L2, 1.4),
    (HopSkipJump(steps=20), L2, 1.15),
    (HopSkipJump(steps=20), Linf, 1.5),
]
each = pytest.mark.parametrize(
    ("recipe", "norm", "slack"), SEARCHES, ids=[f"{type(r).__name__}-{n.__name__}" for r, n, _ in SEARCHES]
)
X = 0.4 + 0.2 * Key.of(1).uniform((8, 1, 4, 4))
W = Key.of(2).normal((3, 16))


class Linear(torch.nn.Module):
    """Logits that are a linear function of the pixels."""

    def __init__(self, w=W):
        super().__init__()
        self.w = torch.nn.Parameter(w)
        self.forwards = 0

    def forward(self, images, key=None):
        self.forwards += len(images)
        return (images - 0.5).flatten(1) @ self.w.T.to(images.dtype)


def spiking(code):
    spec = ModelSpec(code, MLP((10,)), LIF(threshold=0.25), ATan(), MeanPotential(), (1, 4, 4), 3)
    return spec.build(Key.of(0)).eval()


@each
def test_minimum_norm_searches_reach_the_optimum_of_linear_models(recipe, norm, slack):
    model = Linear().eval()
    y = model(X).argmax(1).detach()
    gaps = model(X).detach().gather(1, y[:, None]) - model(X).detach()
    slopes = torch.stack([torch.linalg.vector_norm(W[y] - W[k], DUAL[norm], dim=1) for k in range(3)], 1)
    best = torch.where(slopes > 0, gaps / slopes.clamp(min=1e-9), torch.inf).amin(1)
    found = MinimumNorm(norm(1.0), recipe, stop=False).search(model, X, y, Key.of(3))
    assert found.found.all()
    assert (found.distance >= best * 0.9999).all()
    assert (found.distance <= best * slack).all(), (found.distance / best).tolist()
    assert (decide(model(found.x_adv)) != y).all()
    torch.testing.assert_close(norm(1.0).distance(found.x_adv, X).double(), found.distance)


class Scaled(Linear):
    """The linear model, its logits times a constant."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, images, key=None):
        return self.scale * super().forward(images, key)


LONG = (Boundary, HopSkipJump, CarliniWagner, EAD)
QUICK = [
    *((recipe, norm) for recipe, norm, _ in SEARCHES if not isinstance(recipe, LONG)),
    *((Boundary(steps=60), L2), (HopSkipJump(steps=3, evaluations=20), L2)),
    *((CarliniWagner(steps=20, searches=4), L2), (EAD(steps=20, searches=4), L1)),
    *((JSMA(), L0), (SparseFool(), L0), (SigmaZero(steps=60), L0)),
]


@pytest.mark.parametrize(("recipe", "norm"), QUICK, ids=lambda part: getattr(part, "__name__", repr(part)))
def test_found_share_and_distance_do_not_depend_on_the_scale_of_the_logits(recipe, norm):
    """Scaled logits have the same decisions, so only rounding may change the image that is found."""
    y = Linear()(X).argmax(1)
    search = MinimumNorm(norm(1.0), recipe, stop=False)
    plain = search.search(Scaled(1.0).eval(), X, y, Key.of(3))
    assert plain.found.all()
    for scale in (1e-8, 1e-4, 1e8):
        found = search.search(Scaled(scale).eval(), X, y, Key.of(3))
        assert torch.equal(found.found, plain.found), scale
        torch.testing.assert_close(found.distance, plain.distance, rtol=2e-3, atol=0, msg=f"scale {scale}")


def test_every_search_for_the_nearest_image_is_under_the_law_of_scale():
    on_events = {"spike-fool", "sda"}
    with_a_budget = {"one-pixel"}
    recipes = {name: kind for name, kind in PARTS[Recipe].items() if isinstance(kind, type)}
    kinds = {name for name, kind in recipes.items() if issubclass(kind, NormRecipe)}
    tried = {describe(recipe, PARTS)["name"] for recipe, _ in QUICK}
    assert kinds - on_events - with_a_budget == tried


@each
@pytest.mark.parametrize("code", [Direct(3), Bernoulli(3)], ids=repr)
def test_results_stay_in_budget_and_count_queries(recipe, norm, slack, code):
    model, threat = spiking(code), norm(0.3)
    fewer = {name: 2 for name in ("searches", "evaluations") if hasattr(recipe, name)}
    recipe = replace(recipe, steps=3, **fewer)
    y = torch.arange(8) % 3
    result = recipe(threat)(model, X, y, Key.of(4))
    assert threat.contains(result.x_adv, X).all()
    assert (result.queries >= 1).all()
    again = recipe(threat)(model, X, y, Key.of(4))
    assert torch.equal(result.x_adv, again.x_adv)
    assert torch.equal(result.success, again.success)


@each
def test_forward_queries_are_all_counted(recipe, norm, slack):
    model = Linear().eval()
    y = model(X).argmax(1)
    model.forwards = 0
    result = MinimumNorm(norm(0.01), replace(recipe, steps=5)).__call__(model, X, y, Key.of(3))
    assert int(result.queries.sum()) == model.forwards


@each
def test_without_gradients_failure_is_said(recipe, norm, slack):
    model = Linear(torch.zeros(3, 16)).eval()
    y = torch.zeros(8, dtype=torch.int64)
    model.forward = lambda images, key=None: 0 * images.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])
    found = MinimumNorm(norm(1.0), replace(recipe, steps=3)).search(model, X, y, Key.of(3))
    assert found.distance.isinf().all()
    assert not found.found.any()
    result = replace(recipe, steps=3)(norm(0.2))(model, X, y, Key.of(3))
    assert not result.success.any()
    if recipe.gradient_free:
        assert (result.backward_queries == 0).all()
    else:
        assert (result.zero_gradients == 1).all()


@each
def test_a_minimum_norm_search_is_defined_without_steps_at_budget_zero_and_in_double_precision(
    recipe, norm, slack
):
    model = Linear().eval()
    y = model(X).argmax(1)
    none = replace(recipe, steps=0)(norm(0.01))(model, X, y, Key.of(3))
    assert norm(0.01).contains(none.x_adv, X).all()
    assert recipe.gradient_free or not none.success.any()  # the others begin at random images
    still = replace(recipe, steps=2)(norm(0.0))(model, X, y, Key.of(3))
    assert torch.equal(still.x_adv, X)
    assert not still.success.any()
    assert replace(recipe, steps=2)(norm(0.1))(model, X[:1], y[:1], Key.of(3)).x_adv.shape == X[:1].shape
    assert replace(recipe, steps=2)(norm(0.1))(model, X.double(), y, Key.of(3)).x_adv.dtype == torch.float64
    with pytest.raises(InputError):
        recipe(norm(0.1))(model, X.half(), y, Key.of(3))


@each
def test_minimum_norm_searches_refuse_norms_that_they_do_not_minimise(recipe, norm, slack):
    for other in set(DUAL) - set(recipe.norms):
        with pytest.raises(InputError, match="defined for the threats"):
            recipe(other(0.1))


def fewest(x, y):
    """The fewest pixels that fool the linear model: those of the largest gain, each at an edge."""
    logits, counts = Linear()(x).detach(), []
    for image, label, logit in zip(x.flatten(1), y, logits, strict=True):
        each = []
        for k in set(range(3)) - {int(label)}:
            slope = W[k] - W[label]
            gain = torch.maximum(slope * (1 - image), -slope * image).sort(descending=True)[0].cumsum(0)
            each.append(int((gain <= logit[label] - logit[k]).sum()) + 1)
        counts.append(min(each))
    return torch.tensor(counts)


NEARNESS = torch.linspace(0, 1, 40)[:, None]  # from grey to the template of a class
WIDE = 0.5 + 0.1 * (Key.of(5).uniform((40, 16)) - 0.5) + 0.4 * NEARNESS * W[torch.arange(40) % 3].tanh()
WIDE = WIDE.view(40, 1, 4, 4)
FEW = [
    JSMA(gamma=1.0),
    JSMA(gamma=1.0, theta=-1.0),
    SparseFool(),
    SparseFool(lam=1.0, steps=50),
    SigmaZero(steps=300),
]


@pytest.mark.parametrize(("recipe", "limit"), list(zip(FEW, (3, 3, 4, 1.05, 1.5), strict=True)), ids=repr)
def test_no_search_needs_fewer_pixels_than_the_optimum_and_greed_comes_near(recipe, limit):
    """JSMA changes pixels in pairs; a plane just beyond the boundary (`lam` 1) leads to the optimum."""
    model = Linear().eval()
    y = model(WIDE).argmax(1).detach()
    found = MinimumNorm(L0(16), recipe, stop=False).search(model, WIDE, y, Key.of(3))
    best = fewest(WIDE, y)
    some = found.found
    assert some.float().mean() >= 0.5
    assert (found.distance[some] >= best[some]).all()
    assert found.distance[some].mean() <= limit * best[some].double().mean()
    assert (decide(model(found.x_adv)) != y)[some].all()


def test_a_small_share_of_a_small_image_is_one_pair():
    """If the number of pairs were rounded to zero, no image would change and the model would look robust."""
    model = Linear().eval()
    y = model(WIDE).argmax(1).detach()
    found = MinimumNorm(L0(2), JSMA(gamma=0.01))(model, WIDE, y, Key.of(3))
    assert (found.backward_queries > 0).all()
    assert found.success.any()


def test_one_pixel_falls_exactly_where_one_pixel_is_enough():
    x = WIDE
    model = Linear().eval()
    y = model(x).argmax(1).detach()
    enough = fewest(x, y) <= 1
    result = OnePixel()(L0(1))(model, x, y, Key.of(3))
    assert 0 < enough.float().mean() < 1
    assert not result.success[~enough].any()
    assert result.success[enough].float().mean() >= 0.95
    assert (L0(1).distance(result.x_adv, x) <= 1).all()
    few = [OnePixel(steps=3)(L0(1))(model, x, y, Key.of(3)).x_adv for _ in range(2)]
    assert torch.equal(*few)


def test_a_pixel_counts_once_across_channels():
    colour = torch.rand(4, 3, 4, 4, generator=Key.of(1).generator())

    class Coloured(torch.nn.Module):
        def forward(self, images, key=None):
            return (images - 0.5).flatten(1) @ Key.of(2).normal((3, 48)).T

    model = Coloured().eval()
    y = model(colour).argmax(1)
    result = OnePixel(steps=5)(L0(2))(model, colour, y, Key.of(3))
    assert ((result.x_adv != colour).any(1).flatten(1).sum(1) <= 2).all()
    assert L0(2).contains(result.x_adv, colour).all()


@pytest.mark.parametrize("recipe", [*FEW, OnePixel(steps=2)], ids=repr)
def test_searches_for_few_pixels_bear_hostile_settings(recipe):
    model = spiking(Direct(3))
    y = torch.arange(8) % 3
    still = recipe(L0(0))(model, X, y, Key.of(3))
    assert torch.equal(still.x_adv, X)
    one = recipe(L0(2))(model, X[:1], y[:1], Key.of(3))
    assert L0(2).contains(one.x_adv, X[:1]).all()
    with pytest.raises(InputError):
        recipe(L0(2))(model, X.half(), y, Key.of(3))
    with pytest.raises(InputError, match="defined for the threats"):
        recipe(L2(0.1))


def test_fab_t_aims_at_nine_classes_as_published_or_at_all_others_where_there_are_fewer():
    assert [FABT().turns(classes) for classes in (2, 4, 10, 100)] == [1, 3, 9, 9]


def test_one_target_is_enough_and_none_is_refused():
    assert FABT(targets=1).turns(10) == 1
    with pytest.raises(InputError, match="at least one target"):
        FABT(targets=0)
