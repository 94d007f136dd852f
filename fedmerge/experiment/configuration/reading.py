"""Read an experiment: its configuration and its cohort, with all faults of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmerge.data import CohortSpec, read_cohort
from fedmerge.data.cohort.spec import PACKAGE
from fedmerge.errors import Faults, FedMergeError, nearest, short
from fedmerge.experiment.configuration.changes import apply_change
from fedmerge.experiment.configuration.checks import between_sections
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.plugged import plug_in
from fedmerge.schema.faults import faults_of
from fedmerge.schema.validation import is_folder, is_there, load_yaml
from fedmerge.storage.files import Damaged, read_sealed
from fedmerge.tasks import TASKS


def read_experiment(
    source: str | Path | dict[str, Any] | Experiment,
    changes: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
    near: Path | None = None,
    plugins: Sequence[str] = (),
) -> tuple[Experiment, CohortSpec]:
    """Read an experiment and its cohort from a YAML file, a mapping, or an Experiment.

    changes: ``a.b=value`` overrides, the value read as YAML. seed: run this seed alone. device: override.
    near: the folder a mapping comes from, where its cohort may lie (a file's is its own). plugins: besides
    those that the experiment names; all are loaded first.
    Raises FedMergeError with all faults of both, each with file, field, what was given, what is allowed, and
    the nearest valid name; also for a network that is not known, two methods of one label, and a method
    without what it needs: images, a common start, the sources' own models, sources to tune on.
    """
    faults = Faults()
    data: dict[str, Any]
    begun = None
    if isinstance(source, Experiment):
        data, where = source.model_dump(), "experiment"
        data |= {"cohort": source.cohort}
        if "selection" not in source.model_fields_set:
            del data["selection"]
    elif isinstance(source, dict):
        data, where = dict(source), "experiment"
    else:
        path = find_config(source)
        data, where, near = load_yaml(path, faults), str(path), path.parent
        begun = sources_of_run(path)
    for change in changes:
        with faults.kept():
            apply_change(data, change)
    if seed is not None:
        data["seeds"] = [seed]
    if device is not None:
        data["device"] = device
    plug_in(data, near, plugins, faults)
    experiment, cohort = _checked(data, where, near, faults)
    faults.say()
    assert experiment is not None
    assert cohort is not None
    if begun is not None and cohort.folder is None:
        cohort._folder = begun
    return experiment, cohort


def sources_of_run(config: Path) -> Path | None:
    """Return where relative paths of a run's sources start, as run.json says; None for other files.

    The ``config.yaml`` of a run has its cohort inside, and no longer lies beside the cohort's file.
    """
    try:
        begun = read_sealed(config.parent / "run.json") if config.name == "config.yaml" else {}
    except (OSError, ValueError, Damaged):
        return None
    return Path(begun["sources"]) if isinstance(begun, dict) and begun.get("sources") else None


def _checked(
    data: dict[str, Any], where: str, near: Path | None, faults: Faults
) -> tuple[Experiment | None, CohortSpec | None]:
    """Return the experiment and its cohort; faults of either go to ``faults``."""
    experiment, wrong = faults_of(Experiment, data)
    faults.found += [f"{where}: {sentence}" for fault in wrong for sentence in fault.sentences]
    named: Any = data.get("cohort") if experiment is None else experiment.cohort
    cohort = named if isinstance(named, CohortSpec) else None
    if isinstance(named, str):
        with faults.kept():
            cohort = read_cohort(named, near)
    if experiment is not None and cohort is not None and "selection" not in data:
        experiment = _selecting(experiment, TASKS[cohort.task].headline)
    faults.found += [f"{where}: {each}" for each in between_sections(experiment, data, wrong, cohort)]
    return experiment, cohort


def _selecting(experiment: Experiment, headline: str) -> Experiment:
    """Return an experiment that does not say by what it selects, with its task's own score."""
    same = experiment.selection == headline
    return experiment if same else experiment.model_copy(update={"selection": headline})


def find_config(source: str | Path) -> Path:
    """The configuration file: the path as given, or a shipped configuration by name."""
    path = Path(source)
    if is_folder(path):
        raise FedMergeError(f"'{path}' is a folder{_holds(path)}: name a YAML file.")
    if is_there(path):
        return path
    for folder in _shipped():
        candidate = folder / f"{path.name.removesuffix('.yaml')}.yaml"
        if str(path) in (candidate.stem, candidate.name, f"configs/{candidate.name}") and is_there(candidate):
            return candidate
    names = sorted({file.stem for folder in _shipped() for file in folder.glob("*.yaml")})
    raise FedMergeError(
        f"there is no configuration '{short(source)}'.{nearest(path.stem, names)} Give a YAML file, or one "
        f"of the shipped ones: {', '.join(names)}."
    )


def _holds(folder: Path) -> str:
    """Return the command for a folder of a run or a study that was named in place of a file."""
    if (folder / "run.json").is_file():
        return f" (to go on with the run in it: fedmerge run --resume {folder})"
    if (folder / "study.yaml").is_file():
        return f" (to go on with the study in it: fedmerge bench {folder / 'study.yaml'} --out {folder})"
    return ""


def _shipped() -> list[Path]:
    package = PACKAGE
    folders = [Path("configs"), package.parent / "configs", package / "_shipped" / "configs"]
    return [folder for folder in folders if folder.is_dir()]
