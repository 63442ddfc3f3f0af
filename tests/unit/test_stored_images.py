"""A stored set of adversarial images, judged from Python and in a study."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.made_of.stored_images import StoredImages
from spikeproof.datasets import Digits, First
from spikeproof.errors import DamagedError, InputError
from spikeproof.evaluation.verdicts import evaluate_attack
from spikeproof.experiments.read.results import records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.threats import L2, Linf

N = 24
PART = First()(Digits().load(None).test, N)
X, Y = PART.images.float(), PART.labels
EPSILON = 0.1


WEIGHTS = torch.randn(10, 64, generator=torch.Generator().manual_seed(4))


def linear(images, key=None):
    return images.flatten(1) @ WEIGHTS.T.to(images.dtype)


LABELS = linear(X).argmax(1)  # so that the model is right


@pytest.fixture
def made():
    return PGD(steps=5)(Linf(EPSILON))(linear, X, LABELS, Key.of(0).for_rows(range(N))).x_adv


def kept(path, x=X, x_adv=X, y=LABELS):
    arrays = {"x": x, "x_adv": x_adv, "y": y}
    if path.suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    else:
        save_file({name: array.contiguous() for name, array in arrays.items()}, path)
    return str(path)


@pytest.mark.parametrize("name", ["adversarial.npz", "adversarial.safetensors"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_stored_images_give_the_verdicts_that_the_attack_gave(tmp_path, made, name, kind):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    path = kept(tmp_path / name, X[order].to(kind), made[order].to(kind), LABELS[order])
    for batch_size in (5, 100):
        found = evaluate_attack(
            linear, StoredImages(path=path), Linf(EPSILON), X, LABELS, batch_size=batch_size
        )
        assert torch.equal(found.x_adv, made)
        wrong = linear(made).argmax(1) != LABELS
        assert torch.equal(found.right, (~wrong).float())
        assert found.metrics()["budget_violations"] == 0
    assert wrong.any()


def test_images_outside_the_budget_count_as_violations_and_not_as_attacks(tmp_path, made):
    far = made.clone()
    far[:4] = (X[:4] + 3 * EPSILON).clamp(0, 1)
    far[4, 0, 0, 0] = torch.nan
    path = kept(tmp_path / "far.npz", x_adv=far)
    found = evaluate_attack(linear, StoredImages(path=path), Linf(EPSILON), X, LABELS)
    assert found.metrics()["budget_violations"] == 5
    assert torch.equal(found.x_adv[:5], X[:5])
    assert (found.right[:5] == 1).all()
    assert torch.equal(found.x_adv[5:], made[5:])


def test_the_budget_is_checked_in_double_precision(tmp_path):
    x = torch.linspace(0.3, 0.7, 400).double().view(-1, 1, 1, 1)  # single precision holds these exactly
    edge = x + 0.1 + 1e-6 + 1e-9
    y = torch.zeros(400, dtype=torch.int64)
    attack = StoredImages(path=kept(tmp_path / "edge.npz", x, edge, y))(Linf(0.1))
    assert not Linf(0.1).contains(edge, x).any()
    assert Linf(0.1).contains(edge.float(), x.float()).any()  # by rounding
    model = lambda z, key=None: torch.cat([z.flatten(1), 0 * z.flatten(1)], 1)  # noqa: E731
    found = attack(model, x.float(), y, Key.of(0))
    rounded = Linf(0.1).contains(edge.float(), x.float())
    assert torch.equal(found.x_adv[rounded], x.float()[rounded])
    assert not found.success.any()
    near = kept(tmp_path / "near.npz", x, edge - 2e-8, y)
    again = StoredImages(path=near)(Linf(0.1))(model, x.float(), y, Key.of(0))
    assert torch.equal(again.x_adv, (edge - 2e-8).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("y"), "no y among x, x_adv"),
        (lambda d: d.pop("x"), "no x among x_adv, y"),
        (lambda d: d.update(x_adv=d["x_adv"][:3]), "of one shape"),
        (lambda d: d.update(y=d["y"][:3]), "a label for each"),
        (lambda d: d.update(y=d["y"] + 0.5), "a label for each"),
        (lambda d: d.update(x=(d["x"] * 255).astype(np.uint8)), "Divide pixel values"),
        (lambda d: d.update(x=d["x"][:, :, :4], x_adv=d["x_adv"][:, :, :4]), r"images of \[1, 4, 8\]"),
        (lambda d: d.update(x=d["x"][:9], x_adv=d["x_adv"][:9], y=d["y"][:9]), "are not there"),
        (lambda d: d.update(x=np.flip(d["x"], 3)), "are not there"),
        (lambda d: d.update(y=(d["y"] + 1) % 10), "not there with this label"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, message):
    arrays = {"x": X.numpy(), "x_adv": X.numpy(), "y": LABELS.numpy()}
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message):
        evaluate_attack(linear, StoredImages(path=str(tmp_path / "bad.npz")), Linf(0.1), X, LABELS)


def test_missing_damaged_and_changed_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.npz"):
        StoredImages(path=str(tmp_path / "nothing.npz"))
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 noise")
    with pytest.raises(InputError, match="complete file of NumPy"):
        StoredImages(path=str(tmp_path / "noise.npz")).load()
    (tmp_path / "noise.bin").write_bytes(b"\x80\x04 pickle")
    with pytest.raises(InputError, match="a pickle"):
        StoredImages(path=str(tmp_path / "noise.bin")).load()
    recipe = StoredImages(path=kept(tmp_path / "set.npz"))
    kept(tmp_path / "set.npz", x_adv=X * 0.9)
    with pytest.raises(DamagedError, match="changed"):
        recipe.load()


TEXT = """\
name: kept
data: digits
models:
  - {{encoder: {{direct: {{steps: 2}}}}, network: {{mlp: {{hidden: [8]}}}}, rule: {{bptt: {{epochs: 6}}}}}}
attacks: [fgsm, {{stored: {{path: {path}}}}}]
epsilons: [{epsilon}]
examples: {n}
sample: first
"""


def cells(text):
    chosen = study_of(parse(text, "study.yaml"))
    return chosen, cells_of(chosen, chosen.data.load(None))


def test_a_study_evaluates_a_stored_set_whose_digest_is_part_of_the_address(tmp_path):
    adversarial = (
        X + EPSILON * torch.randn(X.shape, generator=torch.Generator().manual_seed(1)).sign()
    ).clamp(0, 1)
    path = kept(tmp_path / "set.npz", x_adv=adversarial, y=Y)
    chosen, planned = cells(TEXT.format(path=path, epsilon=EPSILON, n=N))
    out = tmp_path / "out"
    summary = run(chosen.name, chosen.spec(), planned, Bench(out, None, "cpu", 16), Serial(), out, Listener())
    assert summary.failed == 0
    found = {row["attack"]: row for row in records(out)}
    assert {"fgsm", "stored", "worst-case"} == set(found)
    assert found["stored"]["effort"]["budget_violations"] == 0
    assert found["stored"]["effort"]["max_distance"] == pytest.approx(EPSILON)
    kept(tmp_path / "set.npz", x_adv=X, y=Y)
    _, later = cells(TEXT.format(path=path, epsilon=EPSILON, n=N))
    changed = [cell for cell in later if cell not in planned]
    assert [cell.spec["attack"]["name"] for cell in changed] == ["stored"]


def test_a_number_with_images_beyond_its_budget_is_withheld(tmp_path):
    path = kept(tmp_path / "set.npz", x_adv=(X + 0.2).clamp(0, 1), y=Y)
    chosen, planned = cells(TEXT.format(path=path, epsilon=EPSILON, n=N))
    out = tmp_path / "out"
    run(chosen.name, chosen.spec(), planned, Bench(out, None, "cpu", 16), Serial(), out, Listener())
    worst = next(row for row in records(out) if row["attack"] == "worst-case")
    right = next(row for row in records(out) if row["attack"] == "stored")
    assert right["effort"]["budget_violations"] > 0
    assert worst["verdict"] == "withheld"
    assert right["robust_accuracy"] == right["clean_accuracy"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("set.npz", "gone.npz", r"study.yaml:5: .*gone.npz"),
        ("{stored", "{worst-of: {attacks: [stored", "study.yaml:5: "),
    ],
)
def test_faults_of_a_study_are_named_with_their_line(tmp_path, old, new, message):
    path = kept(tmp_path / "set.npz", y=Y)
    text = TEXT.format(path=path, epsilon=EPSILON, n=N).replace(old, new)
    if "worst-of" in new:
        text = re.sub(r"\[fgsm, .*\n", f"[{{worst-of: {{attacks: [{{stored: {{path: {path}}}}}]}}}}]\n", text)
    with pytest.raises(InputError, match=message):
        study_of(parse(text, "study.yaml"))


def test_images_of_another_shape_are_refused_before_any_training(tmp_path):
    path = kept(tmp_path / "set.npz", torch.rand(3, 1, 5, 5), torch.rand(3, 1, 5, 5), Y[:3])
    with pytest.raises(InputError, match=r"study.yaml:5: .*images of \[1, 5, 5\]"):
        cells(TEXT.format(path=path, epsilon=EPSILON, n=N))


def test_other_norms_are_checked_too(tmp_path):
    path = kept(tmp_path / "set.npz", x_adv=(X + 0.1).clamp(0, 1))
    for epsilon, many in ((0.1, N), (0.81, 0)):
        found = evaluate_attack(linear, StoredImages(path=path), L2(epsilon), X, LABELS)
        assert found.metrics()["budget_violations"] == many
