"""`guardrail evaluate`: how well classifiers judge, measured on labelled data."""

import click

from guardrail.cli import EVALUATIONS, LazyGroup


@click.group(cls=LazyGroup, table=EVALUATIONS)
def evaluate() -> None:
    """Measure how well classifiers judge."""
