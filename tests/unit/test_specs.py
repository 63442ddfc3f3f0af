import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeproof.errors import InputError
from spikeproof.specs import address, build, canonical, describe, summary


class Shape:
    """A kind."""


@dataclass(frozen=True)
class Dot(Shape):
    """A dot. It has no extent.

    More about dots.
    """


@dataclass(frozen=True)
class Circle(Shape):
    radius: float = 1.0
    segments: int = 8
    filled: bool = False
    label: str | None = None

    def __post_init__(self):
        if self.radius < 0:
            raise InputError("Circle needs a radius of at least 0", f"radius={self.radius}", "Try 1.0.")


@dataclass(frozen=True)
class Pen:
    colour: Literal["black", "red"] = "black"


@dataclass(frozen=True)
class Drawing(Shape):
    centre: Shape
    others: tuple[Shape, ...] = ()
    size: tuple[int, int] = (4, 3)
    pen: Pen | None = None
    frame: Shape | None = None
    area: float = field(default=0.0, init=False)


CATALOGUE = {Shape: {"dot": Dot, "circle": Circle, "drawing": Drawing}}

PARTS = [
    Dot(),
    Circle(),
    Circle(0.1 + 0.2, 3, True, "x"),
    Drawing(Dot()),
    Drawing(Circle(), (Dot(), Circle(2.0)), (1, 2), Pen("red"), Drawing(Dot())),
]


def make(spec, kind=Shape, where=None):
    return build(kind, spec, CATALOGUE, where)


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_a_part_is_rebuilt_from_its_description(part):
    assert make(describe(part, CATALOGUE)) == part


def test_a_description_names_every_option_as_plain_data():
    part = Drawing(Circle(), (Dot(),), pen=Pen())
    assert describe(part, CATALOGUE) == {
        "name": "drawing",
        "centre": {"name": "circle", "radius": 1.0, "segments": 8, "filled": False, "label": None},
        "others": [{"name": "dot"}],
        "size": [4, 3],
        "pen": {"colour": "black"},
        "frame": None,
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "circle", "radius": 2},
        {"circle": {"radius": 2}},
        {"circle": {"radius": 2.0, "label": None}},
        {"name": "circle", "radius": "2e0"},
        {"name": "circle", "radius": "20E-1"},
    ],
    ids=str,
)
def test_all_ways_to_write_a_part_give_the_same_part_and_address(spec):
    part = make(spec)
    assert part == Circle(radius=2.0)
    assert address(describe(part, CATALOGUE)) == address(describe(Circle(radius=2.0), CATALOGUE))


def test_a_bare_name_and_empty_options_mean_the_defaults():
    assert make("circle") == make({"circle": None}) == make({"circle": {}}) == Circle()


def test_an_integer_and_a_negative_zero_in_a_float_field_are_canonical():
    assert describe(Circle(radius=2), CATALOGUE)["radius"].__class__ is float
    assert math.copysign(1, make({"circle": {"radius": -0.0}}).radius) == 1
    assert address(describe(Circle(-0.0), CATALOGUE)) == address(describe(Circle(0), CATALOGUE))


@pytest.mark.parametrize(
    ("options", "parts_of_the_message"),
    [
        ({"segments": True}, ["segments", "whole number", "True"]),
        ({"segments": 8.0}, ["segments", "whole number", "8.0", "such as 8"]),
        ({"segments": "8"}, ["segments", "whole number", "'8'", "without quotes"]),
        ({"segments": None}, ["segments", "whole number", "None"]),
        ({"radius": True}, ["radius", "number", "True"]),
        ({"radius": "1.5"}, ["radius", "number", "'1.5'", "without quotes"]),
        ({"radius": "1e999"}, ["radius", "finite number"]),
        ({"radius": math.nan}, ["radius", "finite number", "nan"]),
        ({"radius": math.inf}, ["radius", "finite number", "inf"]),
        ({"radius": [1.0]}, ["radius", "number", "[1.0]"]),
        ({"filled": 1}, ["filled", "true or false", "1"]),
        ({"filled": "yes"}, ["filled", "true or false", "'yes'"]),
        ({"label": 3}, ["label", "text", "3"]),
        ({"radius": -1}, ["circle: Circle needs a radius of at least 0", "radius=-1.0", "Try 1.0."]),
        ({"raduis": 1}, ["raduis", "no such option", "'radius'"]),
        ({3: 1}, ["no such option", "3"]),
        ("big", ["options of 'circle'", "'big'"]),
        ([1], ["options of 'circle'", "[1]"]),
    ],
    ids=str,
)
def test_wrong_options_are_refused_with_what_came_and_what_to_try(options, parts_of_the_message):
    with pytest.raises(InputError) as caught:
        make({"circle": options})
    for part in parts_of_the_message:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "parts_of_the_message"),
    [
        ("cirle", ["Shape", "'cirle'", "Did you mean 'circle'?"]),
        ({"cirle": {}}, ["Did you mean 'circle'?"]),
        ({"name": "cirle"}, ["Did you mean 'circle'?"]),
        ({"name": ["circle"]}, ["Shape", "['circle']"]),
        ({"name": None}, ["Shape", "None"]),
        (None, ["Shape", "None", "'circle'"]),
        (7, ["Shape", "7"]),
        ([], ["Shape", "[]"]),
        ({}, ["Shape", "{}"]),
        ({"circle": {}, "dot": {}}, ["Shape", "{'circle': {}, 'dot': {}}"]),
        ({"dot": {"size": 1}}, ["takes no options"]),
        ("drawing", ["'drawing' needs 'centre'", "Add centre."]),
        ({"drawing": {"centre": "dot", "area": 1.0}}, ["no such option", "'area'"]),
        ({"drawing": {"centre": None}}, ["drawing.centre", "Shape", "None"]),
        ({"drawing": {"centre": "dot", "size": [1, 2, 3]}}, ["drawing.size", "2 elements", "[1, 2, 3]"]),
        ({"drawing": {"centre": "dot", "size": "12"}}, ["drawing.size", "list", "'12'"]),
        ({"drawing": {"centre": "dot", "size": [1, 2.5]}}, ["drawing.size.1", "whole number", "2.5"]),
        ({"drawing": {"centre": "dot", "others": "dot"}}, ["drawing.others", "list", "'dot'"]),
        ({"drawing": {"centre": "dot", "others": ["dot", "dt"]}}, ["drawing.others.1", "'dt'", "'dot'"]),
        ({"drawing": {"centre": "dot", "pen": {"colour": "blue"}}}, ["drawing.pen.colour", "'red'"]),
        ({"drawing": {"centre": "dot", "pen": "red"}}, ["drawing.pen", "Pen", "'red'"]),
    ],
    ids=str,
)
def test_wrong_specs_are_refused_with_the_way_to_the_mistake(spec, parts_of_the_message):
    with pytest.raises(InputError) as caught:
        make(spec)
    for part in parts_of_the_message:
        assert part in str(caught.value)


def test_messages_begin_with_file_and_line_and_follow_the_keys_as_written():
    lines = {
        ("drawing", "others", 0, "circle", "radius"): "study.yaml:7",
        ("drawing", "centre", "radius"): "study.yaml:3",
        ("drawing", "centre"): "study.yaml:2",
    }
    short = {"drawing": {"centre": "dot", "others": [{"circle": {"radius": "wide"}}]}}
    long = {"drawing": {"centre": {"name": "circle", "radius": "wide"}}}
    refused = {"drawing": {"centre": {"name": "circle", "radius": -1}}}
    for spec, start in [(short, "study.yaml:7: "), (long, "study.yaml:3: "), (refused, "study.yaml:2: ")]:
        with pytest.raises(InputError, match=f"^{start}"):
            make(spec, where=lines.get)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(InputError) as caught:
        make({"circle": {"radius": "x" * 10_000}})
    assert len(str(caught.value)) < 400


def test_a_group_of_parts_outside_the_catalogue_is_written_by_its_fields():
    assert describe(Pen("red"), CATALOGUE) == {"colour": "red"}
    assert make({"colour": "red"}, Pen) == Pen("red")
    with pytest.raises(InputError, match=r"^colur: 'Pen' has no such option.*'colour'"):
        make({"colur": "red"}, Pen)


@dataclass(frozen=True)
class Foreign(Shape):
    """Not in the catalogue."""


def test_a_part_without_a_name_cannot_be_described_inside_another():
    with pytest.raises(InputError, match=r"with a name.*'circle'.*Foreign"):
        describe(Drawing(Foreign()), CATALOGUE)
    with pytest.raises(InputError, match=r"with a name.*None"):
        describe(Drawing(None), CATALOGUE)


@pytest.mark.parametrize("thing", [3, "dot", Dot, None], ids=repr)
def test_only_instances_of_dataclasses_are_described(thing):
    with pytest.raises(InputError, match="dataclass"):
        describe(thing, CATALOGUE)


@pytest.mark.parametrize("value", [math.nan, "wide", True])
def test_a_description_refuses_a_value_that_could_not_be_read_back(value):
    part = Circle()
    object.__setattr__(part, "radius", value)
    with pytest.raises(InputError, match="finite number"):
        describe(part, CATALOGUE)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain))
def test_the_order_of_keys_does_not_matter_to_the_address(data):
    assert address(dict(reversed(data.items()))) == address(data)


@given(plain)
def test_canonical_text_holds_the_whole_of_the_data(data):
    assert json.loads(canonical(data)) == data


def test_numbers_of_different_types_have_different_canonical_text():
    assert len({canonical(one) for one in (1, 1.0, True, "1", None)}) == 5


@pytest.mark.parametrize("data", [math.nan, math.inf, {1, 2}, Dot(), b"x"], ids=repr)
def test_what_is_not_plain_data_has_no_canonical_text(data):
    with pytest.raises(InputError, match="Plain data"):
        canonical({"x": data})


def test_an_address_is_the_same_in_another_process():
    code = "from spikeproof.specs import address; print(address({'a': [1, 0.1], 'b': 'é'}))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": s},
        ).stdout
        for s in "01"
    }
    assert answers == {address({"b": "é", "a": [1, 0.1]}) + "\n"}
    assert len(answers.pop().strip()) == 32


def test_a_summary_is_the_first_sentence():
    assert summary(Dot) == "A dot."
    assert summary(Foreign) == "Not in the catalogue."
