"""Stickers, patches and laser beams: closed forms of their geometry, and laws of every such threat."""

import functools
from dataclasses import fields, replace

import pytest
import torch

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.physical.beamsearch import AdvLB
from spikeproof.attacks.physical.onepatch import UniversalPatch, trained_pattern
from spikeproof.attacks.physical.stickersearch import RP2, AdvHat, Painting
from spikeproof.attacks.search import GradientAttack
from spikeproof.errors import InputError
from spikeproof.evaluation.through import settled, validated
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Margin
from spikeproof.protocols import Seen, Threat
from spikeproof.surrogates import ATan
from spikeproof.threats import BentSticker, LaserBeam, Linf, MovablePatch, Sticker, Views
from spikeproof.threats.physical.lasers import wavelength_colour
from spikeproof.threats.physical.patches import laid
from spikeproof.threats.physical.stickers import nonprintability, total_variation
from spikeproof.threats.physical.views import homography, warped

BLACK_WHITE = ((0.0,), (1.0,))
STILL = Views(0, 0, 0, 0, 0, draws=3)
FEW = {"wavelengths": 4, "angles": 6, "offsets": 5, "widths": 3}
PROJECTED = [
    Sticker(1.0),
    Sticker(0.3, seen_from=Views(draws=2)),
    Sticker(1.0, printable=BLACK_WHITE),
    Sticker(0.6, printable=((0.2,), (0.5,), (0.9,))),
    BentSticker(1.0),
    BentSticker(0.4, bend=0.0, pitch=-20.0),
    MovablePatch(3),
]
BEAMS = [LaserBeam(1.0, **FEW), LaserBeam(0.2), LaserBeam(0.7, **FEW)]
THREATS = [*PROJECTED, *BEAMS]
X = Key.of(0).uniform((4, 1, 9, 10))
Y = torch.arange(4) % 3
FAR = X + 2 * Key.of(1).normal(X.shape)
KEY = Key.of(3).for_rows(range(4))
WEIGHTS = Key.of(5).normal((90, 3))


def model(images, key=None):
    """Three classes by a smooth function of the pixels."""
    return (images.flatten(1) - 0.5).tanh() @ WEIGHTS.to(images)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_starts_are_members_in_the_box_differ_between_keys_and_belong_to_examples(threat):
    start = threat.start(X, KEY)
    assert isinstance(threat, Threat)
    assert threat.contains(start, X).all()
    assert threat.contains(X, X).all()
    assert ((start >= 0) & (start <= 1)).all()
    assert not torch.equal(start, threat.start(X, KEY.fold("again")))
    assert torch.equal(threat.start(X[2:3], KEY.take(torch.tensor([2]))), start[2:3])
    assert (threat.distance(start, X) <= threat.epsilon + 1e-5).all()


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_what_is_no_member_is_noticed(threat):
    start = threat.start(X, KEY)
    off = start.clone()
    off[:, :, 4, 9] = (off[:, :, 4, 9] + 0.37).remainder(1)  # beside every sticker, and not by light alone
    off[:, :, 8, 0] = (off[:, :, 8, 0] + 0.41).remainder(1)
    assert not threat.contains(off, X).any()
    for bad in (-1e-4, 1 + 1e-4, float("nan")):
        broken = start.clone()
        broken[:, 0, 2, 4] = bad
        assert not threat.contains(broken, X).any()


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_a_budget_of_zero_holds_only_the_image(threat):
    none = replace(threat, epsilon=0)
    assert torch.equal(none.start(X, KEY), X)
    assert none.contains(X, X).all()
    assert not none.contains((X + 0.01).clamp(0, 0.99), X).any()
    if threat in PROJECTED:
        assert torch.equal(none.project(FAR, X), X)


@pytest.mark.parametrize("threat", PROJECTED, ids=repr)
def test_projection_lands_inside_is_idempotent_and_fixes_what_is_inside(threat):
    landed, inside = threat.project(FAR, X), threat.start(X, KEY)
    assert threat.contains(landed, X).all()
    assert torch.allclose(threat.project(landed, X), landed, atol=1e-6)
    assert torch.allclose(threat.project(inside, X), inside, atol=1e-6)
    assert torch.equal(threat.project(X, X), X)


@pytest.mark.parametrize("threat", PROJECTED, ids=repr)
def test_the_extreme_member_is_inside_and_beats_random_members_and_the_image(threat):
    grad = Key.of(6).normal(X.shape)
    best = threat.extreme(grad, X)
    assert threat.contains(best, X).all()
    for i in range(10):
        other = threat.start(X, Key.of(i))
        assert ((grad * (other - best)).flatten(1).sum(1) <= 1e-5).all()
    assert torch.equal(threat.extreme(0 * grad, X), X)


def test_a_sticker_without_pixels_and_views_without_range_change_nothing_to_the_bit():
    empty = Sticker(1.0, mask=("." * 10,) * 9, seen_from=STILL)
    for made in (empty.start(X, KEY), empty.project(FAR, X), empty.extreme(FAR, X), empty.seen(X, X, KEY)):
        assert torch.equal(made, X)
    assert torch.equal(RP2(steps=3)(empty)(model, X, Y, KEY).x_adv, X)


def test_printable_colours_have_score_zero_and_members_have_no_other_colours():
    palette = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.5, 0.0], [1.0, 1.0, 1.0]])
    assert torch.equal(nonprintability(palette, palette), torch.zeros(3))
    colour = torch.tensor([[0.4, 0.4, 0.4]])
    expected = (colour[:, None] - palette).norm(dim=-1).prod(-1)
    assert torch.allclose(nonprintability(colour, palette), expected)
    threat = Sticker(1.0, printable=((0.1, 0.2, 0.3), (0.9, 0.5, 0.0), (1.0, 1.0, 1.0)))
    x = Key.of(2).uniform((2, 3, 9, 10))
    under = threat.project(x + Key.of(3).normal(x.shape), x).movedim(1, -1)[:, threat.covered(x)]
    assert nonprintability(under, palette).max() == 0
    off = threat.start(x, KEY.take(torch.tensor([0, 1])))
    off[:, :, 2, 5] = 0.4
    assert threat.covered(x)[2, 5]
    assert not threat.contains(off, x).any()


@pytest.mark.parametrize("slope", [nonprintability, total_variation])
def test_penalties_have_the_gradient_of_finite_differences(slope):
    at = Key.of(4).uniform((1, 2, 3, 4)).double().requires_grad_()
    palette = Key.of(5).uniform((3, 4)).double()
    function = (lambda a: nonprintability(a, palette)) if slope is nonprintability else total_variation
    assert torch.autograd.gradcheck(lambda a: function(a).sum(), at)
    flat = torch.zeros(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(total_variation(flat).sum(), flat)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_the_identity_leaves_an_image_alone_and_a_quarter_turn_is_a_rotation():
    none, both = torch.zeros(4), torch.zeros(4, 2)
    assert torch.allclose(warped(X, homography(none, none + 1, both, both)), X, atol=1e-5)
    square = X[..., :9]
    quarter = homography(none + torch.pi / 2, none + 1, both, both)
    assert torch.allclose(warped(square, quarter), square.rot90(1, (2, 3)), atol=1e-5)
    shifted = homography(none, none + 1, torch.tensor([[2 / 10, 0.0]] * 4), both)  # one column of ten
    assert torch.allclose(warped(X, shifted)[..., :-1], X[..., 1:], atol=1e-5)


@pytest.mark.parametrize(
    "threat", [Sticker(0.8), BentSticker(0.7), MovablePatch(4), Sticker(1.0, seen_from=STILL)], ids=repr
)
def test_views_stay_in_the_box_belong_to_examples_and_have_the_gradient_of_finite_differences(threat):
    assert isinstance(threat, Seen)
    start = threat.start(X, KEY)
    seen = threat.seen(start, X, KEY)
    assert ((seen >= 0) & (seen <= 1)).all()
    assert torch.equal(threat.seen(start[1:2], X[1:2], KEY.take(torch.tensor([1]))), seen[1:2])
    x = (0.3 + 0.4 * X[:1, :, :6, :6]).double()
    one = KEY.take(torch.tensor([0]))
    x_adv = (0.8 * threat.start(x, one) + 0.2 * x).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: threat.seen(a, x, one), x_adv)


@pytest.mark.parametrize("threat", [Sticker(0.8), BentSticker(0.7), MovablePatch(3)], ids=repr)
def test_views_show_something_else_than_the_scene_and_one_view_is_not_another(threat):
    start = threat.start(X, KEY)
    one, two = (threat.seen(start, X, key) for key in (KEY, KEY.fold("another")))
    for a, b in ((one, start), (two, start), (one, two)):
        assert ((a - b).flatten(1).abs().amax(1) > 1e-3).all()


def test_a_view_with_brightness_alone_adds_one_number_to_each_image():
    grey, still = 0.3 + 0.4 * X, Views(0, 0, 0, 0, brightness=0.2)
    offsets = (Sticker(1.0, seen_from=still).seen(grey, X, KEY) - grey).flatten(1)
    assert torch.allclose(offsets, offsets[:, :1].expand_as(offsets), atol=1e-6)
    assert (offsets.abs() <= 0.2 + 1e-6).all()
    assert len({round(float(offset), 4) for offset in offsets[:, 0]} | {0.0}) == len(X) + 1


def test_a_flat_upright_sticker_is_its_rectangle_and_bending_narrows_it():
    flat = BentSticker(1.0, top=0, left=0.2, height=1 / 3, width=0.6, bend=0.0, pitch=0.0)
    mask = torch.zeros(9, 10, dtype=torch.bool)
    mask[:3, 2:8] = True
    assert torch.equal(flat.covered(X), mask)
    bent = replace(flat, bend=1.0).covered(X)
    assert (bent & ~mask).sum() == 0
    assert 0 < bent.sum() < mask.sum()
    leaning = replace(flat, height=8 / 9, pitch=60.0).covered(X)
    assert leaning.sum() == 24  # 8 rows of 6, of which the cosine of 60 degrees leaves half


def test_a_bent_sticker_in_its_own_pose_is_seen_as_it_is():
    threat = BentSticker(0.8, bends=0.0, pitches=0.0)
    start = threat.start(X, KEY)
    assert torch.allclose(threat.seen(start, X, KEY), start, atol=1e-4)
    assert not torch.allclose(replace(threat, pitches=20.0).seen(start, X, KEY), start, atol=1e-2)


def test_a_patch_is_copied_to_the_bit_where_it_is_neither_turned_nor_scaled():
    pattern = Key.of(9).uniform((4, 1, 3, 3))
    none = torch.zeros(4)
    made = laid(X, pattern, torch.tensor([[2.5, 6.5]] * 4), none, none + 1)
    assert torch.allclose(made[:, :, 1:4, 5:8], pattern, atol=1e-6)
    made[:, :, 1:4, 5:8] = X[:, :, 1:4, 5:8]
    assert torch.equal(made, X)
    turned = laid(X, pattern, torch.tensor([[2.5, 6.5]] * 4), none + torch.pi / 2, none + 1)
    assert torch.allclose(turned[:, :, 1:4, 5:8], pattern.rot90(1, (2, 3)), atol=1e-5)


@pytest.mark.parametrize("centre", [[1.4, 5.0], [8.0, 5.0], [5.0, 9.0], [5.0, -3.0]])
def test_a_patch_outside_the_image_is_refused(centre):
    pattern, none = torch.ones(1, 1, 3, 3), torch.zeros(1)
    with pytest.raises(InputError, match="inside images"):
        laid(X[:1], pattern, torch.tensor([centre]), none, none + 1)


def test_a_patch_keeps_its_content_at_other_places():
    threat = MovablePatch(4, rotation=0.0, scale=0.0)
    x_adv = X.clone()
    x_adv[:, :, 3:7, 2:6] = 0.123
    seen = threat.seen(x_adv, X, KEY)
    changed = seen != X
    assert torch.allclose(seen[changed], torch.tensor(0.123), atol=1e-6)
    assert (changed.flatten(1).sum(1) >= 9).all()  # a square of side 4 covers 3 to 5 centres each way
    assert not torch.equal(changed[0], changed[1])


def test_the_beam_is_the_closed_form_on_its_canvas():
    threat = LaserBeam(0.5, wavelengths=2, angles=2, offsets=3, widths=2)  # angles 0 and 90 degrees
    x = torch.zeros(1, 3, 4, 4)
    made = threat.lit(x, torch.tensor([[0, 0, 1, 1]]))  # 380 nm, horizontal at 200, width 1600
    centre = torch.tensor([50.0, 150.0, 250.0, 350.0])
    light = torch.where((centre - 200).abs() <= 40, 1.0, 1600 / (centre - 200) ** 2)
    colour = torch.tensor([0.3**0.8, 0.0, 0.3**0.8])
    expected = 0.5 * colour[:, None, None] * light[None, :, None].expand(3, 4, 4)
    assert torch.allclose(made[0], expected, atol=1e-6)
    upright = threat.lit(x, torch.tensor([[0, 1, 1, 1]]))  # along the left edge
    assert torch.allclose(upright[0, 0], 0.5 * 0.3**0.8 * torch.where(
        centre <= 40, 1.0, torch.where(centre**2 <= 32000, 1600 / centre**2, 0.0)
    ).expand(4, 4), atol=1e-6)  # fmt: skip


def test_colours_of_wavelengths_lie_in_the_box_and_join_without_a_jump():
    grid = torch.linspace(380, 750, 3701, dtype=torch.float64)
    colour = wavelength_colour(grid)
    assert ((colour >= 0) & (colour <= 1)).all()
    assert (colour[1:] - colour[:-1]).abs().max() < 0.04  # the slope of a power of 0.8 at zero
    assert torch.allclose(colour[-1], torch.tensor([0.3**0.8, 0.0, 0.0], dtype=torch.float64))


def test_light_on_a_white_image_is_a_member_whatever_the_beam():
    white = torch.ones(2, 1, 9, 10)
    threat = LaserBeam(1.0, **FEW)
    assert torch.equal(threat.start(white, Key.of(0)), white)
    bright = torch.full((2, 1, 9, 10), 0.9)
    assert threat.contains(threat.start(bright, Key.of(0)), bright).all()
    assert not threat.contains((bright + 0.05), bright).any()


@pytest.mark.parametrize(
    "recipe",
    [RP2(steps=8, views=2), AdvHat(steps=8, views=2), AdvLB(restarts=3, steps=5), PGD(steps=8)],
    ids=lambda recipe: type(recipe).__name__,
)
@pytest.mark.parametrize(
    "threat", [Sticker(1.0, printable=BLACK_WHITE), BentSticker(1.0), LaserBeam(1.0, **FEW)]
)
def test_attacks_stay_within_the_threat_or_refuse_it_and_raise_the_margin(recipe, threat):
    y = model(X).argmax(1)
    clean = evaluate_clean(model, X, y)
    try:
        found = evaluate_attack(model, recipe, threat, X, y, clean)
    except InputError:
        assert isinstance(threat, LaserBeam) != isinstance(recipe, AdvLB)
        return
    assert found.within.all()
    assert (Margin()(model(found.x_adv), y) >= Margin()(model(X), y) - 1e-6).all()
    metrics = found.metrics()
    if isinstance(threat, Seen):
        assert 0 <= metrics["accuracy_in_views"] <= 1
        assert 0 <= metrics["clean_accuracy_in_views"] <= 1
    else:
        assert "accuracy_in_views" not in metrics


def test_the_accuracy_in_views_is_that_of_the_views_themselves_and_one_without_range():
    y = model(X).argmax(1)
    still = Sticker(1.0, seen_from=STILL)
    found = evaluate_attack(model, RP2(steps=8), still, X, y)
    assert found.metrics()["accuracy_in_views"] == float((model(found.x_adv).argmax(1) == y).float().mean())
    assert found.metrics()["clean_accuracy_in_views"] == 1
    assert "accuracy_in_views" not in evaluate_attack(model, PGD(steps=2), Linf(0.1), X, y).metrics()


def test_a_sticker_trained_in_views_holds_in_more_views_than_one_that_is_not():
    """The best sticker for the image itself is, seen from elsewhere, mostly not where it would have to be."""
    x = Key.of(20).uniform((30, 1, 9, 10))
    y, threat = model(x).argmax(1), Sticker(1.0, seen_from=Views(rotation=60, shift=0.3, draws=40))
    alone, several = (
        evaluate_attack(model, RP2(steps=30, views=views), threat, x, y).metrics()["accuracy_in_views"]
        for views in (0, 8)
    )
    assert several < alone - 0.03, (several, alone)


def test_a_picture_leaves_a_printable_colour_although_each_step_is_short():
    threat = Sticker(1.0, printable=BLACK_WHITE)
    x, y = torch.zeros(1, 1, 9, 10), torch.tensor([0])

    def brightness(images, key=None):
        lit = images.flatten(1).mean(1)
        return torch.stack([1 - 4 * lit, 4 * lit], 1)

    attack = GradientAttack(threat, 12, 0.1, step=Painting(), random_start=False, stop_when_fooled=False)
    made = attack(brightness, x, y, Key.of(0)).x_adv
    assert made[0, 0][threat.covered(x)].min() == 1


OPTIONS = {
    RP2: (Sticker(1.0, printable=BLACK_WHITE), {"printing": 5.0}),
    AdvHat: (BentSticker(1.0), {"decay": 0.0, "smoothing": 5.0}),
    AdvLB: (LaserBeam(0.02, **FEW), {"restarts": 3, "steps": 9}),
    UniversalPatch: (MovablePatch(1), {"places": 3}),
}
COMMON = {"steps": 7, "restarts": 2, "views": 1, "reach": 0.4, "objective": Margin()}
BRIEF = {"steps": 4, "views": 2, "restarts": 1, "pattern": (0.5,)}
OTHERWISE = {"surrogate", "backward", "images", "pattern"}
"""Of gradient sources, tested for every recipe elsewhere; of the training of a pattern, tested below."""


@functools.cache
def attacked(recipe, threat):
    return recipe(threat)(model, X, model(X).argmax(1), KEY)


@pytest.mark.parametrize(
    ("recipe", "option", "value"),
    [
        (recipe, name, own.get(name, COMMON.get(name)))
        for recipe, (_, own) in OPTIONS.items()
        for name in sorted({f.name for f in fields(recipe)} - OTHERWISE)
        if not (recipe is UniversalPatch and name in COMMON)
    ],
)
def test_two_values_of_an_option_are_two_attacks(recipe, option, value):
    names = {field.name for field in fields(recipe)}
    plain = recipe(**{name: short for name, short in BRIEF.items() if name in names})
    assert getattr(plain, option) != value
    threat = OPTIONS[recipe][0]
    one, two = attacked(plain, threat), attacked(replace(plain, **{option: value}), threat)
    assert any(
        a is not None and not torch.equal(a.nan_to_num(-7), b.nan_to_num(-7))
        for a, b in zip(one, two, strict=True)
    )


def test_a_universal_patch_is_one_pattern_trained_on_other_images():
    threat, recipe = MovablePatch(4), UniversalPatch(images=3, steps=15)
    other = Key.of(11).uniform((6, 1, 9, 10))
    labels = model(other).argmax(1)
    assert validated(recipe) == 3
    trained, choices = settled(model, recipe, threat, other, labels, Key.of(0))
    again, _ = settled(model, recipe, threat, other, labels, Key.of(0))
    assert trained == again
    assert not choices
    pattern = torch.tensor(trained.pattern).view(1, 4, 4)
    same = trained_pattern(model, threat, other[:3], labels[:3], Key.of(0).fold("patch"), steps=15)
    assert torch.allclose(pattern, same)
    found = trained(threat)(model, X, model(X).argmax(1), KEY)
    for image, x in zip(found.x_adv, X, strict=True):
        patch = threat.content(image[None], x[None])[0]
        assert torch.allclose(patch[0], pattern)
    longer, _ = settled(model, replace(recipe, steps=16), threat, other, labels, Key.of(0))
    sharper, _ = settled(model, replace(recipe, objective=Margin()), threat, other, labels, Key.of(0))
    assert trained.pattern not in (longer.pattern, sharper.pattern)


def test_a_pattern_trained_on_a_model_that_sees_brightness_is_white():
    """The objective rises with every pixel, wherever the patch lies."""

    def dark(images, key=None):
        lit = images.flatten(1).mean(1)
        return torch.stack([1 - lit, lit], 1)

    x = torch.zeros(5, 1, 9, 10)
    made = trained_pattern(dark, MovablePatch(3), x, torch.zeros(5, dtype=torch.int64), Key.of(1), steps=40)
    assert made.min() > 0.99


BAD = {
    "rows of a mask": lambda: Sticker(1.0, mask=("..", "#")),
    "rows of a mask that are no text": lambda: Sticker(1.0, mask=(1, 2)),
    "opacity": lambda: Sticker(1.5),
    "opacity of a bent sticker": lambda: BentSticker(8.0),
    "a mask that is one text": lambda: Sticker(1.0, mask="##"),
    "a mask that is a tensor": lambda: Sticker(1.0, mask=torch.ones(9, 10)),
    "colours that are numbers": lambda: Sticker(1.0, printable=(0.0, 1.0)),
    "letters of a mask": lambda: Sticker(1.0, mask=("ab",)),
    "size of a mask": lambda: Sticker(1.0, mask=("#.",)).start(X, KEY),
    "channels of colours": lambda: Sticker(1.0, printable=((0.0, 1.0, 1.0),)).start(X, KEY),
    "range of colours": lambda: Sticker(1.0, printable=((2.0,),)),
    "colours of two kinds": lambda: Sticker(1.0, printable=((0.0,), (0.0, 1.0))),
    "no images": lambda: Sticker(1.0).start(X.flatten(1), KEY),
    "no images for a beam": lambda: LaserBeam(1.0).start(X.flatten(1), KEY),
    "no images for a bent sticker": lambda: BentSticker(1.0).start(X.flatten(1), KEY),
    "no images for a patch": lambda: MovablePatch(2).start(X.flatten(1), KEY),
    "channels of a beam": lambda: LaserBeam(1.0).start(X.expand(-1, 2, -1, -1), KEY),
    "family of beams": lambda: LaserBeam(1.0, angles=1),
    "steps on beams": lambda: PGD(steps=1)(LaserBeam(1.0))(model, X, Y, KEY),
    "bend": lambda: BentSticker(1.0, bend=-1.0),
    "place of a bent sticker": lambda: BentSticker(1.0, left=0.8),
    "size of a patch": lambda: MovablePatch(11).start(X, KEY),
    "half a pixel": lambda: MovablePatch(1.5),
    "scale of a patch": lambda: MovablePatch(2, scale=2.0),
    "views": lambda: Views(draws=0),
    "rotation": lambda: Views(rotation=float("nan")),
    "recipe for another threat": lambda: RP2()(Linf(0.1)),
    "beam search for another threat": lambda: AdvLB()(Linf(0.1)),
    "beam search without restarts": lambda: AdvLB(restarts=0)(LaserBeam(1.0)),
    "patch for another threat": lambda: UniversalPatch()(Linf(0.1)),
    "patch for another threat, trained": lambda: UniversalPatch().trained(model, Linf(0.1), X, Y, KEY),
    "patch that is not trained": lambda: UniversalPatch()(MovablePatch(2))(model, X, Y, KEY),
    "pattern of another size": lambda: UniversalPatch(pattern=(0.0,))(MovablePatch(2))(model, X, Y, KEY),
    "pattern out of range": lambda: UniversalPatch(pattern=(2.0,))(MovablePatch(1)),
    "no training images": lambda: trained_pattern(model, MovablePatch(2), X[:0], Y[:0], Key.of(0)),
    "views of a ball": lambda: GradientAttack(Linf(0.1), 1, 0.1, views=1),
    "views below zero": lambda: RP2(views=-1),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_a_hint(make):
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.try_


def test_the_surrogate_of_a_recipe_is_taken_where_gradients_come_from():
    assert RP2(surrogate=ATan(3.0)).surrogate == ATan(3.0)
    assert AdvHat().objective == LogitCrossEntropy()
