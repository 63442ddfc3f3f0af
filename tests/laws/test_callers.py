"""A number is that of the call that is made, wherever it is made and with whatever; or it is refused."""

import threading

import pytest
import torch
from torch import nn

import spikeproof as sp
from spikeproof.errors import InputError
from spikeproof.evaluation.asking.callables import answering
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.networks.classifier import Classifier
from spikeproof.statistics import wilson

THREAT = sp.Linf(0.2)


def examples():
    x = sp.Key.of(1).uniform((12, 1, 4, 4))
    return x, (x[:, 0, :2].sum((1, 2)) > x[:, 0, 2:].sum((1, 2))).long()


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2)).eval()


def ours():
    spec = sp.ModelSpec(sp.Direct(3), sp.MLP((8,)), sp.LIF(), sp.ATan(), sp.MeanPotential(), (1, 4, 4), 2)
    return spec.build(sp.Key.of(0)).eval()


def quick(model, x=None, y=None):
    own, labels = examples()
    return sp.audit(model, own if x is None else x, labels if y is None else y, THREAT, "quick")


class Doubles:
    """The default type of new tensors is float64."""

    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "doubles by default": Doubles,
    "a device": lambda: torch.device("cpu"),
}


@pytest.mark.parametrize("model", [plain, ours])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_an_audit_does_not_depend_on_what_is_around_the_call(model, name):
    judged, before = model(), quick(model())
    with SURROUNDINGS[name]():
        after = quick(judged)
    assert after.plain() == before.plain() | {"members": after.plain()["members"]}
    assert torch.equal(after.images, before.images)


def test_an_attack_does_not_depend_on_inference_mode():
    (x, y), model = examples(), plain()
    attack = sp.PGD(steps=5)(THREAT)
    expected = attack(model_with_key(model), x, y, sp.Key.of(0)).x_adv
    with torch.inference_mode():
        found = attack(model_with_key(model), x.clone(), y.clone(), sp.Key.of(0)).x_adv
    assert torch.equal(found, expected)


def model_with_key(model):
    return lambda x, key=None: model(x)


@pytest.mark.parametrize("model", [plain, ours])
def test_two_threads_audit_one_model(model):
    judged, found = model(), []
    before = quick(judged)
    threads = [threading.Thread(target=lambda: found.append(quick(judged))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.accuracy for report in found] == [before.accuracy] * 3


def test_a_container_that_hands_its_call_on_takes_what_its_module_takes():
    model = nn.DataParallel(plain()).eval()
    assert quick(model).accuracy == quick(plain()).accuracy


class Greyed(Classifier):
    """A model that answers for less contrast than its image has."""

    def forward(self, images, key=None):
        return super().forward(0.5 * images + 0.25, key)


class Silent(Classifier):
    """A model with other logits, in the method that verdicts are read from as well."""

    def respond(self, encoded, tally=None):
        return -super().respond(encoded, tally)


def hooked_before(model):
    model.register_forward_pre_hook(lambda module, given: (1 - given[0], *given[1:]))
    return model


def hooked_after(model):
    model.register_forward_hook(lambda module, given, logits: logits.flip(1))
    return model


def patched(model):
    inner = model.forward
    model.forward = lambda images, key=None: inner(1 - images, key)
    return model


def of_class(kind):
    def changed(model):
        model.__class__ = kind
        return model

    return changed


ALTERED = {
    "hook before": hooked_before,
    "hook after": hooked_after,
    "method of the instance": patched,
    "method of a class": of_class(Greyed),
    "inner method of a class": of_class(Silent),
}


@pytest.mark.parametrize("how", ALTERED)
def test_a_number_is_that_of_the_call_and_not_of_the_layers_behind_it(how):
    """Verdicts, gradients and searches follow the call, as they do for a function of the same answers."""
    model, (x, y) = ALTERED[how](ours()), examples()
    found, function = quick(model), quick(lambda images: model(images))
    assert torch.equal(found.suited.attacked.right, function.suited.attacked.right)
    assert any(note.startswith("measured by its call") for note in found.notes)
    assert not any(note.startswith("measured by its call") for note in quick(ours()).notes)
    with torch.no_grad():
        assert found.clean_argmax == pytest.approx(float((model(x).argmax(1) == y).float().mean()))
    clean = sp.evaluate_clean(model, x, y)
    assert clean.metrics()["clean_accuracy"] == pytest.approx(found.clean_accuracy)
    suited = evaluate_suite(model, "quick", THREAT, x, y, clean, sp.Key.of(0))
    assert [m["name"] for m in suited.members] == [m["name"] for m in function.members]


def with_encoder(model):
    model.encoder = sp.Latency(3)
    return model


def hooked_inside(model):
    layer = next(part for part in model.modules() if isinstance(part, nn.Linear))
    layer.register_forward_hook(lambda module, given, out: -out)
    return model


class Coarse(nn.Linear):
    """Weights that are the model's, of an input that is not: bounds on the weights say nothing of it."""

    def forward(self, x):
        return super().forward((4 * x).round() / 4)


def replaced_inside(model):
    next(part for part in model.modules() if isinstance(part, nn.Linear)).__class__ = Coarse
    return model


def patched_inside(model):
    layer = next(part for part in model.modules() if isinstance(part, nn.Linear))
    inner = layer.forward
    layer.forward = lambda x: inner((4 * x).round() / 4)
    return model


@pytest.mark.parametrize("how", [*ALTERED.values(), with_encoder, hooked_inside])
def test_a_model_that_its_parts_do_not_bring_back_is_not_saved(how, tmp_path):
    """What is loaded would be another model, and its numbers those of that."""
    with pytest.raises(InputError, match="bring back"):
        sp.save(how(ours()), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    sp.save(ours(), tmp_path / "model")


@pytest.mark.parametrize("how", [*ALTERED.values(), hooked_inside, replaced_inside, patched_inside])
def test_nothing_is_proved_of_layers_that_do_not_give_the_answers(how):
    (x, y), threat = examples(), sp.Linf(1e-4)
    assert sp.audit(ours(), x, y, threat, "quick").certified is not None
    model = how(ours())
    assert sp.audit(model, x, y, threat, "quick").certified is None
    with pytest.raises(InputError, match="cannot certify"):
        sp.IBP()(model, x, y, threat, sp.Key.of(0))


@pytest.mark.parametrize("how", [hooked_before, hooked_inside, replaced_inside, patched_inside])
def test_searches_update_no_currents_of_layers_that_do_not_give_the_answers(how):
    assert ours().first_layer() is not None
    assert how(ours()).first_layer() is None


def test_a_subclass_that_changes_no_answer_stays_a_classifier():
    class Named(Classifier):
        title = "mine"

    model = of_class(Named)(ours())
    assert answering(model) is model
    assert quick(model).accuracy == quick(ours()).accuracy


def in_place(images):
    images -= 0.1
    return plain()(images)


def behind_the_back(images):
    images.data.mul_(0.9)
    return plain()(images)


def without_a_derivative(images):
    different, which = torch.unique(images, dim=0, return_inverse=True)
    return plain()(different[which])


def refusing_what_is_dark(images):
    if bool((images.flatten(1).amin(1) < 1e-3).any()):
        raise ValueError("such a dark pixel is suspicious")
    return plain()(images)


def broken_backward(images):
    hidden = torch.sigmoid(plain()[1](images.flatten(1)))
    logits = plain()[3](hidden * hidden)
    hidden.add_(1e-9)
    return logits


@pytest.mark.parametrize(
    "recipe", [sp.PGD(), sp.DeepFool(), sp.SquareSearch(queries=50)], ids=lambda r: type(r).__name__
)
@pytest.mark.parametrize(
    ("model", "sentence"),
    [(refusing_what_is_dark, "ValueError: such a dark pixel"), (broken_backward, "in its backward pass")],
)
def test_an_error_that_a_model_raises_during_an_attack_is_said_in_a_sentence(model, sentence, recipe):
    x, y = examples()
    x, threat = x.clamp(min=0.05), sp.L2(2.0) if isinstance(recipe, sp.DeepFool) else sp.Linf(0.3)
    if isinstance(recipe, sp.SquareSearch) and model is broken_backward:  # no gradient is asked for
        assert sp.evaluate_attack(model, recipe, threat, x, y).right.shape == y.shape
        return
    with pytest.raises(InputError, match=sentence):
        sp.evaluate_attack(model, recipe, threat, x, model(x).argmax(1))


def test_an_operation_without_a_derivative_is_a_gradient_of_zero():
    x, _ = examples()
    y = plain()(x).argmax(1)
    found = quick(without_a_derivative, x, y)
    assert found.verdict.verdict != "supported"
    assert [reason for reason in found.reasons if "gradient" in reason]


@pytest.mark.parametrize("model", [in_place, behind_the_back])
def test_a_model_that_changes_its_images_is_refused_and_leaves_those_of_the_caller(model):
    x, y = examples()
    kept = x.clone()
    for measured in (lambda: quick(model, x, y), lambda: sp.evaluate_clean(model, x, y)):
        with pytest.raises(InputError, match="changed in place"):
            measured()
    assert torch.equal(x, kept)


NO_EXAMPLES = {
    "one-hot labels": (lambda x, y: (x, nn.functional.one_hot(y, 2)), "argmax"),
    "labels in a column": (lambda x, y: (x, y[:, None]), "flatten"),
    "labels of another length": (lambda x, y: (x, y[1:]), "one label each"),
    "labels left out": (lambda x, y: (x, y - 1), "class indices from 0"),
    "labels in 8 bits": (lambda x, y: (x, y.to(torch.uint8)), "int64"),
    "labels in floating point": (lambda x, y: (x, y.float()), "long"),
    "no example": (lambda x, y: (x[:0], y[:0]), "at least one"),
    "pixels in 8 bits": (lambda x, y: ((255 * x).to(torch.uint8), y), "float"),
    "pixels up to 255": (lambda x, y: (255 * x, y), r"in \[0, 1\]"),
    "normalised pixels": (lambda x, y: ((x - 0.5) / 0.3, y), r"in \[0, 1\]"),
}


@pytest.mark.parametrize("what", NO_EXAMPLES)
def test_what_are_no_examples_is_refused_in_a_sentence(what):
    change, sentence = NO_EXAMPLES[what]
    with pytest.raises(InputError, match=sentence):
        quick(plain(), *change(*examples()))


class Noisy:
    """A function of images that adds noise to its answers, drawn for every image by itself."""

    stochastic = True

    def __init__(self, model, scale=1e-2):
        self.model, self.scale = model, scale

    def __call__(self, images, key):
        return self.model(images) + self.scale * key.fold("noise").normal((len(images), 2))


class NoisyTogether(Noisy):
    """The same, with noise that is drawn for a whole batch at once."""

    def __call__(self, images, key):
        together = sp.Key(key.path).fold("noise", len(images))
        return self.model(images) + self.scale * together.normal((len(images), 2))


def refused_for_its_company(model, x):
    try:
        sp.evaluate_clean(model, x, torch.zeros(len(x), dtype=torch.int64))
    except InputError as error:
        assert "equally in every batch" in str(error)  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize("wrapped", [lambda model: model, Noisy], ids=["plain", "stochastic"])
@pytest.mark.parametrize(("least", "share"), [(33, 0.2), (64, 1.0), (64, 0.05), (65, 0.5), (128, 0.2)])
def test_a_model_that_answers_otherwise_in_large_batches_is_refused(least, share, wrapped):
    """Clean images and verdicts come in other batches than an attack, whose images are fewer and fewer.

    The effect may be one on a few images only, which are then the ones that no attack seems to break.
    """
    model, x = plain(), sp.Key.of(2).uniform((140, 1, 4, 4))

    def coarse(images):
        touched = (images[:, 0, 0, 0] < share) & (len(images) >= least)
        return torch.where(touched[:, None], model(images).flip(1), model(images))

    assert refused_for_its_company(wrapped(coarse), x)
    assert not refused_for_its_company(wrapped(model), x)
    assert not refused_for_its_company(NoisyTogether(model), x)
    if least < 100:
        with pytest.raises(InputError, match="equally in every batch"):
            quick(wrapped(coarse), x, torch.zeros(140, dtype=torch.int64))


class Alarmed:
    """Answers by the nearest clean image off the data, from some forward or backward pass on."""

    def __init__(self, model, x, passes, backward):
        self.model, self.x, self.passes, self.backward, self.seen = model, x, passes, backward, 0
        self.known = nn.functional.one_hot(model(x).argmax(1), 2).float() * 3

    def count(self, gradient=None):
        self.seen += 1
        return gradient

    def __call__(self, images):
        logits = self.model(images)
        if self.backward and logits.requires_grad:
            logits.register_hook(self.count)
        elif not self.backward:
            self.count()
        apart, nearest = torch.cdist(images.flatten(1), self.x.flatten(1)).min(1)
        odd = (apart > 1e-3) & (self.seen > self.passes)
        return torch.where(odd[:, None], self.known[nearest] + 0 * logits, logits)


@pytest.mark.parametrize(("backward", "passes"), [(True, 1), (True, 7), (True, 20), (False, 12), (False, 25)])
def test_a_model_that_answers_otherwise_after_an_attack_is_refused(backward, passes):
    """Its verdicts are answers of the later model, which an attack of one pass would not meet."""
    (x, _), model = examples(), plain()
    y = model(x).argmax(1)
    wide = sp.Linf(0.4)
    assert sp.evaluate_attack(model, sp.PGD(steps=30), wide, x, y).right.mean() < 0.7
    with pytest.raises(InputError, match=r"equal calls equally.*different logits"):
        sp.evaluate_attack(Alarmed(model, x, passes, backward), sp.PGD(steps=30), wide, x, y)


def test_a_class_that_is_masked_by_an_infinite_logit_hides_no_other_answer():
    """Such a logit has no size by which the others could be small."""
    (x, _), model = examples(), plain()
    y, later = model(x).argmax(1), Alarmed(model, x, 7, True)

    def masked(images):
        logits = later(images)
        return torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)

    with pytest.raises(InputError, match=r"equal calls equally.*different logits"):
        sp.evaluate_attack(masked, sp.PGD(steps=30), sp.Linf(0.4), x, y)


@pytest.mark.parametrize("least", [2, 16])
@pytest.mark.parametrize("wrapped", [lambda model: model, Noisy], ids=["plain", "stochastic"])
def test_a_model_that_answers_otherwise_among_attacked_images_is_refused(least, wrapped):
    """An attack processes attacked images together; an attacker may send a single one among clean images."""
    model, x = plain(), (sp.Key.of(2).uniform((40, 1, 4, 4)) * 16).round() / 16
    y = model(x).argmax(1)
    known = nn.functional.one_hot(y, 2).float() * 3

    def alarmed(images):
        apart, nearest = torch.cdist(images.flatten(1), x.flatten(1)).min(1)
        odd = apart > 1e-3
        safe = torch.where(odd[:, None], known[nearest] + 0 * model(images), model(images))
        return safe if odd.sum() >= least else model(images)

    wide = sp.Linf(0.4)
    assert sp.evaluate_attack(wrapped(model), sp.PGD(), wide, x, y).right.mean() < 0.7
    with pytest.raises(InputError, match="attacked images among clean ones"):
        sp.evaluate_attack(wrapped(alarmed), sp.PGD(), wide, x, y)
    with pytest.raises(InputError, match="equally in every batch"):
        sp.audit(wrapped(alarmed), x, y, wide, "quick")


def test_rounding_that_depends_on_the_size_of_a_batch_is_no_reason_to_refuse():
    """A sum in another order may move a spike, in all images that are as near to a threshold as rounding."""
    model, x = plain(), sp.Key.of(2).uniform((70, 1, 4, 4))
    x[:40, 0, 0, 0] = 0.5  # at the threshold

    def spikes(images):
        rounding = 1e-6 if len(images) >= 64 else -1e-6
        spike = (images[:, 0, 0, 0] + rounding >= 0.5).float()
        return model(images) + 0.1 * spike[:, None] * torch.tensor([1.0, -1.0])

    assert not torch.allclose(spikes(x)[:32], spikes(x[:32]))
    assert quick(spikes, x, torch.zeros(70, dtype=torch.int64)).n == 70


def test_images_with_unknown_pixels_are_not_said_to_be_changed_in_place():
    x, y = examples()
    x[0, 0, 0, 0] = torch.nan
    clean = sp.evaluate_clean(lambda images: plain()(images.nan_to_num()), x, y)
    assert len(clean.label) == len(y)


def test_copies_of_an_image_make_no_number_certain():
    """An interval counts examples; a number on copies of one image says nothing about others."""
    x, _ = examples()
    found = quick(plain(), x[:1].expand(400, 1, 4, 4), plain()(x[:1]).argmax(1).expand(400))
    assert found.interval == pytest.approx(wilson(found.accuracy, 1))
    assert [reason for reason in found.reasons if "the 400 examples are worth 1," in reason]
    assert "too few examples" in quick(plain()).verdict.why
    assert not [reason for reason in quick(plain()).reasons if "nearly the same" in reason]


@pytest.mark.parametrize("times", [2, 5])
def test_an_interval_is_that_of_the_examples_that_differ(times):
    x = sp.Key.of(8).uniform((200, 1, 4, 4))
    y = (x[:, 0, :2].sum((1, 2)) > x[:, 0, 2:].sum((1, 2))).long()
    once, often = quick(plain(), x, y), quick(plain(), x.repeat(times, 1, 1, 1), y.repeat(times))
    assert often.accuracy == once.accuracy
    assert often.interval == pytest.approx(once.interval)


def test_one_answer_to_everything_is_no_better_than_chance_where_all_labels_are_that():
    x = sp.Key.of(2).uniform((40, 1, 4, 4))

    def first(images):
        return images.flatten(1)[:, :2] * 1e-3 + torch.tensor([5.0, 0.0])

    found = quick(first, x, torch.zeros(40, dtype=torch.int64))
    assert found.accuracy == 1
    assert [note for note in found.notes if "one answer to all of them gives 100.0 %" in note]


OTHER_EXAMPLES = {
    "other labels": (lambda x, y: (x, 1 - y), "12 of 12 with another label"),
    "another order": (lambda x, y: (x.flip(0), y.flip(0)), "with another"),
    "another order of one class": (lambda x, y: (x.flip(0), y), "12 of 12 with another image"),
    "two exchanged": (lambda x, y: (x[[1, 0, *range(2, 12)]], y), "2 of 12 with another image"),
    "a changed pixel": (lambda x, y: (x + torch.eye(16).view(16, 1, 4, 4)[:12] * 1e-6, y), "another image"),
    "fewer": (lambda x, y: (x[:-1], y[:-1]), "12 outcomes, 11 images"),
}


@pytest.mark.parametrize("given", OTHER_EXAMPLES)
def test_clean_outcomes_of_other_examples_are_refused(given):
    """By what the images are: those of one class have the same labels and perhaps the same answers."""
    (x, _), model = examples(), plain()
    y = torch.zeros(12, dtype=torch.int64)
    (other, labels), sentence = OTHER_EXAMPLES[given][0](x, y), OTHER_EXAMPLES[given][1]
    clean = sp.evaluate_clean(model, x, y)
    for measured in (
        lambda x, y: sp.evaluate_attack(model, sp.FGSM(), THREAT, x, y, clean),
        lambda x, y: sp.evaluate_sweep(model, sp.FGSM(), [THREAT], x, y, clean, sp.Key.of(0)),
        lambda x, y: evaluate_suite(model, "quick", THREAT, x, y, clean, sp.Key.of(0)),
        lambda x, y: sp.evaluate_distances(model, sp.DeepFool(), sp.L2(1.0), x, y, clean, sp.Key.of(0)),
    ):
        with pytest.raises(InputError, match=sentence):
            measured(other, labels)
        measured(x.clone(), y)
    for same in (x.double(), x.contiguous(memory_format=torch.channels_last)):
        assert sp.evaluate_attack(model.to(same.dtype), sp.FGSM(), THREAT, same, y, clean).right.shape == (
            12,
        )


@pytest.mark.parametrize("recipe", [sp.FGSM(), sp.PGD(), sp.NoiseSearch()], ids=lambda r: type(r).__name__)
def test_clean_outcomes_of_another_model_are_refused(recipe):
    """They would stand beside the robust accuracy as the clean accuracy of this model."""
    x, y = examples()
    model, other = plain(), lambda images: plain()(images).flip(1)
    clean = sp.evaluate_clean(other, x, y)
    assert sp.evaluate_attack(other, recipe, THREAT, x, y, clean).right.shape == y.shape
    with pytest.raises(InputError, match="of the model that is attacked"):
        sp.evaluate_attack(model, recipe, THREAT, x, y, clean)


def test_an_attack_of_the_user_that_returns_images_alone_is_refused_in_a_sentence():
    x, y = examples()

    def shift(model, x, y, key, *, through=None):
        return (x + 0.1).clamp(0, 1)

    with pytest.raises(InputError, match="returns a Result"):
        sp.evaluate_attack(plain(), shift, THREAT, x, y)


def test_gradients_may_come_from_a_plain_module():
    x, y = examples()
    found = sp.evaluate_attack(ours(), sp.PGD(steps=3), THREAT, x, y, through=plain())
    assert found.right.shape == y.shape


def test_a_model_that_drops_the_axis_of_a_single_image_has_a_verdict():
    model = plain()
    found = quick(lambda images: model(images).squeeze(0))
    assert found.verdict.verdict == "withheld"


def exported(net, batch=None):
    """What `torch.export` makes of a network, for every size of batch by default."""
    x, _ = examples()
    free = {0: torch.export.Dim("batch")} if batch is None else None
    shapes = None if free is None else (free,)
    return torch.export.export(net, (x[: batch or 4],), dynamic_shapes=shapes).module()


def batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
    )


@pytest.mark.parametrize("net", [plain, lambda: batch_norm().eval()], ids=["plain", "batch norm"])
def test_an_exported_network_has_the_number_of_the_network(net):
    """It cannot be put into evaluation mode, and says that it is in training mode in any case."""
    x, y = examples()
    module = exported(net())
    assert module.training
    found, wanted = quick(module), quick(lambda images, net=net(): net(images))
    assert (found.accuracy, found.verdict) == (wanted.accuracy, wanted.verdict)
    assert sp.evaluate_attack(module, sp.PGD(), THREAT, x, y).right.shape == y.shape


def test_an_exported_network_that_cannot_be_measured_is_refused_in_a_sentence():
    program = torch.export.export(plain(), (examples()[0],))
    for model, sentence in (
        (exported(batch_norm()), "exported in training mode, with batch_norm and dropout"),
        (exported(nn.Sequential(nn.Dropout(0.5), *plain()).train()), "with dropout"),
        (exported(plain(), 4), "exported for batches of 4"),
        (program, r"Pass its module: program.module\(\)"),
    ):
        for measured in (quick, lambda model: sp.evaluate_clean(model, *examples())):
            with pytest.raises(InputError, match=sentence):
                measured(model)


@pytest.mark.parametrize(
    "given", [{"draws": 0}, {"draws": -1}, {"draws": 1.5}, {"batch_size": 0}, {"batch_size": 2.5}]
)
def test_numbers_of_draws_and_sizes_of_batches_are_whole_and_positive(given):
    with pytest.raises(InputError, match="whole numbers of at least 1"):
        sp.audit(plain(), *examples(), THREAT, suite="quick", **given)


@pytest.mark.parametrize("nested", [False, True])
def test_a_sweep_over_threats_of_several_kinds_is_refused(nested):
    model, (x, y) = plain(), examples()
    threats, clean = [sp.Linf(0.1), sp.L2(0.5)], sp.evaluate_clean(model, x, y, sp.Key.of(0))
    with pytest.raises(InputError, match="one threat"):
        sp.evaluate_sweep(model, sp.PGD(), threats, x, y, clean, sp.Key.of(0), nested=nested)
