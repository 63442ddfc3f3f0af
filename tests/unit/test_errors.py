"""Messages that say what was expected, what came and what to try, wherever they are raised."""

import pickle

import pytest

from spikeproof.errors import DamagedError, InputError, SpikeproofError, suggest


def test_an_input_error_says_three_things_and_is_a_value_error():
    error = InputError("steps is at least 1", "steps=0", "Try steps=8.")
    assert str(error) == "steps is at least 1: got steps=0. Try steps=8."
    assert (error.expected, error.got, error.try_) == ("steps is at least 1", "steps=0", "Try steps=8.")
    assert isinstance(error, ValueError)
    assert isinstance(error, SpikeproofError)


def test_an_input_error_comes_back_whole_from_another_process():
    error = InputError("a", "b", "C.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is InputError
    assert (str(copy), copy.try_) == (str(error), "C.")


def test_a_damaged_file_raises_no_value_error():
    assert issubclass(DamagedError, SpikeproofError)
    assert not issubclass(DamagedError, ValueError)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("latncy", ["direct", "latency"], "Did you mean 'latency'?"),
        ("Direct", ["latency", "direct"], "Did you mean 'direct'?"),
        ("xyz", ["latency", "direct"], "Choose one of 'direct', 'latency'."),
        ("xyz", [], "There is no name to choose from."),
    ],
)
def test_the_closest_name_is_suggested_or_all_of_them_are_listed(name, options, wanted):
    assert suggest(name, iter(options)) == wanted
