"""Members of a suite made short, for laws that hold at any length."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest

from spikeproof.evaluation import suites


def shortened(recipe, most):
    """The recipe, and those it is made of, with no option above the number that `most` names for it."""
    options = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    less = {name: min(options[name], limit) for name, limit in most.items() if name in options}
    inner = {"attack": shortened(options["attack"], most)} if "attack" in options else {}
    return replace(recipe, **less, **inner)


def brief(members, most):
    """The members of a suite with their recipes shortened."""
    return [member._replace(recipe=shortened(member.recipe, most)) for member in members]


@contextmanager
def brief_suites(most) -> Iterator[pytest.MonkeyPatch]:
    """Every suite that runs has all its members, but shortened; what is patched besides ends with it."""
    plan = suites.plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "plan", lambda *given: brief(plan(*given), most))
        yield patch
