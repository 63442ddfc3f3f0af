"""Members of a suite made short, and loops over time made fast, for laws that hold at any length."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest

from spikeproof.compiled import Loops, using_loops
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
def brief_suites(most, *modules) -> Iterator[pytest.MonkeyPatch]:
    """Every suite that runs has all its members, but shortened; what is patched besides ends with it.

    Loops over time are compiled, which changes no bit.

    Args:
        most: the largest number for each option.
        modules: those which name the members of suites that they run, and must not see them shortened.
    """
    plan, evaluate = suites.plan, suites.evaluate_suite

    def briefly(model, level, threat, *rest, members=None, **named):
        asked = plan(level, model, threat) if members is None else members
        return evaluate(model, level, threat, *rest, members=brief(asked, most), **named)

    with pytest.MonkeyPatch.context() as patch, using_loops(Loops.COMPILED):
        patch.setattr(suites, "plan", lambda *given: brief(plan(*given), most))
        for module in modules:
            patch.setattr(module, "evaluate_suite", briefly)
        yield patch
