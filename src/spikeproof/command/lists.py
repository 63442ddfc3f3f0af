"""What `spikeproof list` prints: the options of one member, and the models of a study."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import click
import yaml

from spikeproof.catalogue.options import NEEDED, Option
from spikeproof.experiments.read.record import Parts
from spikeproof.experiments.read.trained import Trained

__all__ = ["print_models", "print_options"]

LIBRARIES = ("torchattacks", "foolbox")
"""Kinds whose members stand within an attack of the same name."""


def print_options(kind: str, member: str, options: Sequence[Option]) -> None:
    """Print the options of one member, each with its type, its default and its meaning."""
    if not options:
        click.echo(f"{member} has no options.")
        return
    for option in options:
        default = NEEDED if option.default is NEEDED else f"default {as_yaml(option.default)}"
        click.echo(f"{option.name}: {option.holds}; {default}")
        if option.meaning:
            click.echo(textwrap.indent(textwrap.fill(option.meaning, 96, break_on_hyphens=False), "    "))
    shown = next((option for option in options if option.default is not NEEDED), None)
    if shown is not None and not any(option.default is NEEDED for option in options):
        block: object = {member: {shown.name: shown.default}}
        if kind in LIBRARIES:
            block = {kind: {"attack": block}}
        click.echo(f"\nIn a study file: {as_yaml(block)}")


def as_yaml(value: object) -> str:
    """A value in one line of a study file.

    Example:
        >>> as_yaml([1, {"latency": {"steps": 8}}]), as_yaml(None)
        ('[1, {latency: {steps: 8}}]', 'null')
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def print_models(models: Sequence[Trained]) -> None:
    """The models of a study: the parts that tell them apart, the cost of training, and their directories."""
    named = [{name: str(each) for name, each in model.items()} for model in models]
    axes = [axis for axis in Parts.__annotations__ if len({model[axis] for model in named}) > 1] or [
        "encoder"
    ]
    lines = [[*axes, "s/epoch", "model"]]
    for model, words in zip(models, named, strict=True):
        waiting = "" if model["trained"] else " (not trained yet)"
        if model["overfitted"] is not None:
            waiting += f" (catastrophically overfitted in epoch {model['overfitted']})"
        cost = model["processor_seconds"]
        spent = "" if cost is None else f"{cost:.3g}"
        lines.append([*(words[axis] for axis in axes), spent, words["model"] + waiting])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())
