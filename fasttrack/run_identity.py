"""Who a run that is recorded is: its id, its name, and what of its settings nobody may read.

Other ranks load none of this.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from fasttrack.context.job_runs import JobRuns, current_job
from fasttrack.context.naming import make_run_id, make_run_name
from fasttrack.journal.run_directory import run_directory, segments
from fasttrack.redaction import redact, redact_text
from fasttrack.settings import AUTO_ID, resolve_sweep_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.settings import RunSettings


def without_secrets(settings: RunSettings) -> RunSettings:
    """Return the settings with what looks secret redacted, a sweep's parameters included."""
    config = settings.config
    if settings.sweep_id is not None:
        config = config | resolve_sweep_parameters()

    def redacted(text: str | None) -> str | None:
        return None if text is None else redact_text(text)

    return replace(
        settings,
        config=redact(config),
        tags=redact(settings.tags),
        notes=redacted(settings.notes),
        group=redacted(settings.group),
        name=redacted(settings.name),
    )


def identify(settings: RunSettings, resume_id: str | None) -> RunSettings:
    """Return the settings with the run's id: the one given, that of this job's run, or a new one.

    A run that is new gets a name, too, unless it was given.
    """
    run_id, job_runs = settings.run_id, None
    named = resume_id is not None and resume_id != AUTO_ID  # that there is such a run
    if resume_id == AUTO_ID and run_id is None and (job := current_job()) is not None:
        job_runs = JobRuns(
            run_directory(settings.base_dir, "x").parent,
            job,
            project=(settings.project, settings.entity),
            details=(settings.group, settings.name, settings.tags),
            has_ended_well=lambda run_id: _has_ended_well(run_directory(settings.base_dir, run_id)),
        )
        run_id = job_runs.find()
        named = run_id is not None
    name = settings.name
    is_new = run_id is None or not (named or run_directory(settings.base_dir, run_id).is_dir())
    if name is None and is_new:
        now = datetime.fromtimestamp(settings.began_s)
        name = make_run_name(settings.project, settings.tags, now)
    return replace(
        settings,
        run_id=run_id or make_run_id(),
        resumed=run_id is not None,
        job_runs=job_runs,
        name=name,
    )


def _has_ended_well(run_dir: Path) -> bool:
    """Return whether a run's newest attempt ended with success, or is not there any more."""
    from fasttrack.journal.reader import read_finish

    paths = segments(run_dir)
    try:
        finish = read_finish(paths[-1]) if paths else None
    except OSError:
        return False
    return not paths or (finish is not None and finish.exit_code == 0 and not finish.preempting)
