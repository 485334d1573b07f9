"""`guardrail evaluate calibrate`: fit a calibration on the scores of a run, and put it beside the weights."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click

from guardrail.calibration import StoredCalibration, digest, dumps, write_beside
from guardrail.cli.evaluate_compare import items_of
from guardrail.config.environment import process_environment
from guardrail.errors import GuardrailError
from guardrail.evaluation.predictions import Key, Prediction, RunInfo, read_run
from guardrail.training.calibrate import FITTERS, HeldOut
from guardrail.training.calibrate import calibrate as fit_calibration


@click.command("calibrate")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="RUN")
@click.option(
    "--weights", type=click.Path(path_type=Path, exists=True), help="Write it beside this weights file or into this model's folder."
)
@click.option("--method", type=click.Choice(list(FITTERS)), help="Default: the one with the least log loss on units it has not seen.")
def calibrate_run(folder: Path, weights: Path | None, method: str | None) -> None:
    """Fit a calibration on a run over texts that the classifier was not trained on, and print it.

    Texts of one unit are kept together where the run's sets are found unaltered in GUARDRAIL_DATA.
    """
    info, found = read_run(folder)
    data = process_environment().data_folder
    units = {place: item.unit for place, item in items_of(info, data).items()} if data is not None else {}
    fit = fit_calibration(_held_out(found, units), method)
    notes = {
        "classifier": info.classifier,
        "sets": ", ".join(each.name for each in info.sets),
        "rows": str(fit.rows),
        "units": str(fit.units),
    }
    stored = StoredCalibration(fit.calibration, _weights(info), notes)
    click.echo(
        f"{fit.calibration.method} over {fit.rows:,} judgements of {fit.units:,} units; on unseen units log loss"
        f" {fit.log_loss_before:.4f} -> {fit.log_loss:.4f}, Brier score {fit.brier_before:.4f} -> {fit.brier:.4f}",
        err=True,
    )
    if weights is None:
        click.echo(dumps(stored), nl=False)
    else:
        click.echo(f"{write_beside(weights, stored)}: {digest(stored.calibration)}")


def _weights(info: RunInfo) -> str:
    """The digest of the weights, as the classifier's id tells it. Raises GuardrailError where there is none, or a calibration already."""
    if "+calibration@" in info.classifier:
        raise GuardrailError(f"the run's scores are calibrated already ({info.classifier}); remove that calibration and run again")
    told = re.match(r"(?:embedded|cope)@(sha256:[0-9a-f]+)", info.classifier)
    if told is None:
        raise GuardrailError(
            f"only embedded and CoPE classifiers read a calibration beside their weights, this run is of {info.classifier}"
        )
    return told[1]


def _held_out(found: Mapping[Key, Prediction], units: Mapping[tuple[str, str], str]) -> list[HeldOut]:
    """Scores with a label that is about their policy: of a text asked under several, a violation does not say which."""
    asked = Counter((each.set, each.item) for each in found.values())
    rows = []
    for each in found.values():
        place = (each.set, each.item)
        if each.score is not None and each.label is not None and (asked[place] == 1 or not each.label):
            rows.append(HeldOut(each.score, each.label, f"{each.set}:{units.get(place) or each.item}"))
    return rows
