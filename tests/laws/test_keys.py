"""Equal keys give equal draws, other names other draws, and every example has a stream of its own."""

import pytest
import torch

from spikeproof.errors import InputError
from spikeproof.keys import Key


def test_equal_paths_draw_equally_and_other_names_do_not():
    one, two = Key.of(0).fold("a", 1), Key.of(0).fold("a").fold(1)
    assert torch.equal(one.uniform((50,)), two.uniform((50,)))
    others = [
        Key.of(1).fold("a", 1),
        Key.of(0).fold("a", 2),
        Key.of(0).fold("a", "1"),
        Key.of(0).fold("b", 1),
    ]
    assert not any(torch.equal(one.uniform((50,)), other.uniform((50,))) for other in others)


def test_seeds_are_pinned_across_processes_and_releases():
    """A change here changes every published number."""
    assert Key.of(0).seed() == 2631537505891389924
    assert Key.of(0).fold("a").seed(3) == 7901574209974642823


def test_draws_belong_to_examples_wherever_they_stand():
    key = Key.of(0).for_rows([4, 9, 2])
    draws = key.normal((5, 3, 2), batch_dim=1)
    assert torch.equal(key.take(torch.tensor([2, 0])).normal((5, 2, 2), batch_dim=1), draws[:, [2, 0]])
    assert torch.equal(key.take(torch.tensor([False, True, False])).normal((5, 1, 2), 1), draws[:, 1:2])
    assert not torch.equal(draws[:, 0], draws[:, 1])
    assert torch.equal(Key.of(0).for_rows([9, 9]).normal((5, 2, 2), batch_dim=1), draws[:, [1, 1]])


def test_folding_keeps_the_examples_and_selecting_keeps_the_name():
    key = Key.of(0).for_rows([4, 9])
    assert key.fold("a", 1) == Key((0, "a", 1), (4, 9))
    assert key.fold("a").take(torch.tensor([1])) == Key((0, "a"), (9,))
    assert Key.of(0).take(torch.tensor([1])) == Key.of(0)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    Key.of(0).for_rows(range(3)).uniform((3, 4))
    Key.of(0).normal((3, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_uniform_and_normal_have_their_moments():
    u, n = Key.of(1).uniform((100_000,)), Key.of(1).normal((100_000,))
    assert u.mean().item() == pytest.approx(0.5, abs=0.005)
    assert u.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert n.mean().item() == pytest.approx(0, abs=0.015)
    assert n.var().item() == pytest.approx(1, abs=0.02)


def test_a_key_of_another_batch_is_refused():
    with pytest.raises(InputError, match="2 identities for a batch of 3"):
        Key.of(0).for_rows([1, 2]).uniform((3, 4))
