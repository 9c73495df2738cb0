"""The work behind the buttons: a form becomes a restored picture, or a small one to see first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invdiff.app.answers import write_answer, write_page
from invdiff.app.form import Form, opened, words_of
from invdiff.app.outcome import Outcome
from invdiff.app.shown import as_shown, deviation, went_in
from invdiff.app.telling import doubts, told_of_problem, told_of_size, without_words
from invdiff.cost import cost_of
from invdiff.errors import InputError, hearing
from invdiff.inference import Interrupted, restore
from invdiff.prior.denoiser import state_like
from invdiff.solve import calibrated, colours_of, get_ready, intervals_line, previewed
from invdiff.solvers.tools.holes import large_holes
from invdiff.summary import several

if TYPE_CHECKING:
    from invdiff.app import AppSettings


def restored(
    form: Form,
    settings: AppSettings,
    folder: Path,
    *,
    small: bool = False,
    tell: Callable[[str], None],
    on_progress: Callable[[float], None],
    stopping: Callable[[], bool],
) -> Outcome:
    """Restore a picture, or a small version of it.

    Args:
        form: what was chosen.
        settings: of the command.
        folder: for the files of this run.
        small: whether a preview is wanted: one sample of a small version or of a part.
        tell: is given every line that the run says.
        on_progress: is given the share of the work that is done.
        stopping: whether to stop; the samples that are finished are kept.

    Raises:
        InputError: the picture cannot be used, or the run was stopped before the first sample.
    """

    def go_on(share: float) -> None:
        if stopping():
            raise KeyboardInterrupt
        on_progress(share)

    told: set[str] = set()

    def hear(line: str) -> None:
        has_own_noise = small and line.startswith("misfit")
        if line not in told and not has_own_noise:
            told.add(line)
            tell(without_words(line))

    with hearing(hear):
        picture = opened(form.source)
        words = words_of(form, picture, folder)
        ready = get_ready([*words, f"prior={settings.prior}", f"device={settings.device}"])
        run = ready.settings
        (part,) = ready.parts
        # One after the other on a CPU, where that is as quick: a stop leaves those before it.
        batch = 1 if state_like(ready.prior).device.type == "cpu" else run.batch
        tell(told_of_size(picture, part, form))
        for line in told_of_problem(part, colours_of(run)):
            tell(line)
        if run.estimate == "samples":
            cost = cost_of(
                part.problem,
                ready.prior,
                ready.solver,
                samples=run.samples,
                batch=batch,
                fill_holes=run.fill_holes,
            )
            tell(f"{'the whole takes ' if small else ''}{cost}")
        if small:
            run = replace(run, preview=True, samples=1)
            part = previewed(part, run)
        try:
            posterior = restore(
                part.problem,
                ready.prior,
                ready.solver,
                samples=run.samples,
                seed=run.seed,
                batch=batch,
                numbers=part.numbers,
                estimate=run.estimate,
                fill_holes=run.fill_holes,
                on_progress=go_on,
            )
        except Interrupted as stop:
            if stop.posterior is None:
                raise InputError("stopped before the first sample was finished") from None
            posterior = stop.posterior
            tell(
                f"stopped: {len(posterior.samples)} of {several(run.samples, 'sample')} are "
                "finished"
            )
        else:
            posterior = calibrated(run, part, ready.prior, ready.solver, posterior)
        posterior = replace(posterior, colours=colours_of(run))
        said = [] if small else doubts(posterior)
        if any(posterior.filled):
            line = large_holes(part.problem, ready.prior, ready.solver).told_of_fill
            said.append(line[0].upper() + line[1:])
        if run.estimate == "samples" and not small:
            said.append(intervals_line(run, part, ready.prior, ready.solver, posterior))
        after = as_shown(posterior.answer[0])
        return Outcome(
            before=as_shown(went_in(part, form.task), after.shape[:2]),
            after=after,
            doubt=None if small else deviation(posterior),
            said="\n".join(f"- {line}" for line in said),
            answer=None if small else write_answer(folder, form, picture, part, posterior),
            report=None if small else write_page(folder, ready, part, posterior),
        )
