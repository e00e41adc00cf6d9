"""The Markdown report of an evaluation, with the paper's figures beside one's own."""

from __future__ import annotations

from collections.abc import Sequence

from dbsam_training.evaluate.bootstrap import Comparison, Mean, group_by
from dbsam_training.evaluate.click_curve import GOALS
from dbsam_training.evaluate.evaluate import CLICKS_SHOWN, Evaluation
from dbsam_training.evaluate.paper_figures import (
    PAPER_MODELS,
    TABLE_1_AVERAGE,
    TABLE_2_AVERAGE,
    TABLE_3,
    PaperTask,
    paper_task_for,
)
from dbsam_training.evaluate.summary import GROUPS, GroupMeans, Summary, TaskScore

PROMPT_TEXT = {
    "paper": (
        "Per slice the tight box of the true mask, each side moved outwards by 0 to 20 pixels of a 256x256 grid; "
        "slices without object are left empty. 3D scores are of the whole volume. Nothing outside the box is set."
    ),
    "roi": (
        "One 3D box per object, {looseness} voxels loose in plane and {slices} beyond each end. Nothing outside the "
        "box is set."
    ),
    "clicks": (
        "One 3D box per object, {looseness} voxels loose in plane and {slices} beyond each end; then clicks, each in "
        "the middle of the largest connected part that is wrong (the voxel deepest inside), followed to both sides."
    ),
}
HOW_COMPUTED = """## How the figures are computed

- DSC and NSD (surface Dice at 1 mm, as published by Nikolov et al.) per object: a structure of a case, or one
  instance. 3D: on the whole volume with its spacing. 2D without spacing: DSC on the image's own grid, NSD with 1 pixel
  tolerance on masks scaled to a longer side of 256.
- Slice axis `auto`: along the largest spacing, else axial.
- A data set's figure is the mean over its objects; a mean is the mean over data sets. Data sets that one box doesn't
  determine, and data sets whose masks a model made, are reported apart.
- Intervals: 95 %, bootstrap over the cases of each data set. Tests: Wilcoxon's signed-rank test over the mean scores
  of the cases, two-sided, Holm's correction over the pairs of models.
"""


def markdown_report(evaluation: Evaluation, summary: Summary, sheets: Sequence[str] = ()) -> str:
    """Writes the report.

    Args:
        evaluation: what was evaluated.
        summary: its figures.
        sheets: file names of picture sheets to show.
    """
    settings = evaluation.settings
    parts = [
        "# Evaluation",
        f"Split `{settings.split}`, {len(evaluation.datasets)} data sets, models: {', '.join(evaluation.models)}. "
        f"Slice axis `{settings.axis}`, seed {settings.seed}. All figures in percent.",
    ]
    if settings.limit is not None:
        parts.append(f"**Only the first {settings.limit} cases of each data set.**")
    for kind in settings.kinds:
        slices = max(1, round(kind.looseness / 3))
        beyond = "one slice" if slices == 1 else f"{slices} slices"
        parts += [f"## Prompt `{kind.name}`", PROMPT_TEXT[kind.shape].format(looseness=kind.looseness, slices=beyond)]
        if kind.shape == "clicks":
            parts += _click_sections(evaluation, summary)
        else:
            parts += _prompt_sections(kind.name, evaluation, summary)
    parts += [*_spread_section(summary), *_calibration_section(summary)]
    parts += [f"![{sheet}]({sheet})" for sheet in sheets]
    parts += [HOW_COMPUTED.strip(), *_problems(evaluation), *_times(evaluation)]
    return "\n\n".join(parts) + "\n"


def _prompt_sections(prompt: str, evaluation: Evaluation, summary: Summary) -> list[str]:
    means = [entry for entry in summary.means if entry.prompt == prompt]
    if not means:
        return ["No case could be evaluated."]
    datasets = [entry for entry in summary.datasets if entry.prompt == prompt]
    structures = [entry for entry in summary.structures if entry.prompt == prompt]
    sections = ["### Means over data sets", _means_table(means)]
    if comparisons := summary.comparisons.get(prompt):
        sections += ["### Paired comparisons (well-posed data sets)", _comparison_table(comparisons)]
    sections += ["### Data sets", _dataset_table(datasets, evaluation)]
    for dimension, title in ((3, "Table 1: 3D tasks"), (2, "Table 2: 2D tasks")):
        tasks = [entry for entry in structures if entry.dimension == dimension]
        if tasks:
            sections += [f"### {title}, beside the paper's", _task_table(tasks, means, evaluation.models, dimension)]
    sections += ["### Table 3's form", _ablation_table(means, evaluation.models)]
    return sections


def _click_sections(evaluation: Evaluation, summary: Summary) -> list[str]:
    means = [entry for entry in summary.means if entry.prompt.startswith("clicks-")]
    if not means:
        return ["No case could be evaluated."]
    rows = [
        [group.title, entry.model, entry.prompt.partition("-")[2], _interval(entry.dsc), _interval(entry.nsd)]
        for group in GROUPS
        for model in evaluation.models
        for entry in means
        if (entry.group, entry.model) == (group.name, model)
    ]
    sections = [_table(["group", "model", "clicks", "DSC (95 % CI)", "NSD (95 % CI)"], rows)]
    if not summary.clicks:
        return sections
    rows = [
        [
            model,
            *(f"{clicks.clicks_to[goal]:.2f} ({100 * clicks.reached[goal]:.0f} %)" for goal in clicks.clicks_to),
            " / ".join(f"{100 * clicks.dsc_worst_half[n]:.2f}" for n in CLICKS_SHOWN if n < len(clicks.dsc)),
        ]
        for model, clicks in summary.clicks.items()
    ]
    goals = [f"NoC@{100 * goal:.0f} (reached)" for goal in GOALS]
    shown = "/".join(map(str, CLICKS_SHOWN))
    return [
        *sections,
        f"Clicks to an IoU on the well-posed data sets, of at most {evaluation.settings.clicks}: an object that does "
        "not reach it counts with all of them, one whose box is enough with 0. The worst half is by the box alone.",
        _table(["model", *goals, f"DSC of the worst half after {shown} clicks"], rows),
        "![Clicks](clicks.png)",
    ]


def _spread_section(summary: Summary) -> list[str]:
    if not summary.spreads:
        return []
    titles = {group.name: group.title for group in GROUPS}
    rows = [
        [entry.prompt, titles[entry.group], entry.model, str(entry.boxes)]
        + [f"{100 * figure:.2f}" for figure in (entry.mean, entry.deviation, entry.worst)]
        for entry in summary.spreads
    ]
    return [
        "## How far masks hang on how the box was drawn",
        "Several boxes round each object, each side of a 3D box moved by up to 2 voxels in plane and one slice. DSC: "
        "mean, standard deviation over an object's boxes, and the worst of them, averaged over objects and data sets.",
        _table(["prompt", "group", "model", "boxes", "mean", "deviation", "worst"], rows),
    ]


def _calibration_section(summary: Summary) -> list[str]:
    if not summary.calibration:
        return []
    rows = [
        [
            model,
            f"{entry.slices:,}",
            _share(entry.error, 2),
            _share(entry.error_corrected, 2),
            f"{_share(entry.bad_warned)} of {entry.bad}",
            f"{_share(entry.good_warned)} of {entry.good}",
        ]
        for model, entry in summary.calibration.items()
    ]
    return [
        "## How well the models judge their masks",
        "Expected calibration error of the predicted IoU of slices, in ten bins, each data set counting the same; "
        "corrected: by a rising curve fitted on the other half of the cases. Of an object that the "
        "engine calls likely wrong, a user is warned. All figures in percent.",
        _table(["model", "slices", "error", "corrected", "DSC < 50: warned of", "DSC > 80: warned of"], rows),
        "![Calibration](calibration.png)",
    ]


def _share(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _means_table(means: Sequence[GroupMeans]) -> str:
    rows = []
    for group in GROUPS:
        for entry in means:
            if entry.group == group.name:
                counts = f"{entry.dsc.datasets} / {entry.dsc.cases} / {entry.dsc.objects}"
                rows.append([group.title, counts, entry.model, _interval(entry.dsc), _interval(entry.nsd)])
    return _table(["group", "data sets / cases / objects", "model", "DSC (95 % CI)", "NSD (95 % CI)"], rows)


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    rows = [
        [
            f"{entry.model} − {entry.other}",
            entry.metric.upper(),
            f"{100 * entry.difference:+.2f} ({100 * entry.low:+.2f} to {100 * entry.high:+.2f})",
            str(entry.cases),
            _p_value(entry.p_value),
            _p_value(entry.p_adjusted),
        ]
        for entry in comparisons
    ]
    return _table(["models", "metric", "difference (95 % CI)", "cases", "p", "p, Holm"], rows)


def _dataset_table(datasets: Sequence[TaskScore], evaluation: Evaluation) -> str:
    rows = []
    for name, entries in group_by(datasets, lambda entry: entry.dataset).items():
        info = evaluation.datasets[name]
        remarks = ["ill-posed for one box"] * info.ill_posed_for_one_box + ["masks by a model"] * (
            info.mask_origin == "model"
        )
        by_model = {entry.model: entry for entry in entries}
        first = entries[0]
        rows.append(
            [name, f"{first.modality} {first.dimension}D", f"{first.cases} / {first.objects}"]
            + [_pair(by_model.get(model)) for model in evaluation.models]
            + ["; ".join(remarks)]
        )
    header = [
        "data set",
        "modality",
        "cases / objects",
        *(f"{model} DSC / NSD" for model in evaluation.models),
        "remarks",
    ]
    return _table(header, rows)


def _task_table(tasks: Sequence[TaskScore], means: Sequence[GroupMeans], models: Sequence[str], dimension: int) -> str:
    rows = []
    for (dataset, structure), entries in group_by(tasks, lambda entry: (entry.dataset, entry.structure or "")).items():
        by_model = {entry.model: entry for entry in entries}
        first = entries[0]
        paper = paper_task_for(structure, first.modality, dimension)
        rows.append(
            [f"{structure} ({dataset})", first.modality]
            + [_figures([_value(by_model.get(model), metric) for model in models]) for metric in ("dsc", "nsd")]
            + _paper_cells(paper)
        )
    group = f"{dimension}d"
    averages = {entry.model: entry for entry in means if entry.group == group}
    rows.append(
        ["**mean over well-posed data sets**", ""]
        + [
            _figures([100 * getattr(averages[model], metric).value if model in averages else None for model in models])
            for metric in ("dsc", "nsd")
        ]
        + _paper_cells(TABLE_1_AVERAGE if dimension == 3 else TABLE_2_AVERAGE)
    )
    ours, theirs = " / ".join(models), " / ".join(PAPER_MODELS)
    header = ["task", "modality", f"DSC: {ours}", f"NSD: {ours}", "paper's task", f"paper's DSC: {theirs}"]
    note = "The paper's figures are from other data: a row stands beside the task of the same structure and modality."
    return note + "\n\n" + _table([*header, f"paper's NSD: {theirs}"], rows)


def _paper_cells(task: PaperTask | None) -> list[str]:
    if task is None:
        return ["", "", ""]
    return [f"{task.name} {task.modality}".strip(), _figures(task.dsc), _figures(task.nsd)]


def _ablation_table(means: Sequence[GroupMeans], models: Sequence[str]) -> str:
    by_key = {(entry.model, entry.group): entry for entry in means}
    rows = []
    for model in models:
        cells = [model]
        for group in ("3d", "2d"):
            entry = by_key.get((model, group))
            cells += ["–", "–"] if entry is None else [f"{100 * entry.dsc.value:.2f}", f"{100 * entry.nsd.value:.2f}"]
        rows.append(cells)
    for row in TABLE_3:
        figures = (row.dsc_3d, row.nsd_3d, row.dsc_2d, row.nsd_2d)
        rows.append([f"paper: {row.name}", *(f"{figure:.2f}" for figure in figures)])
    return _table(["model", "3D DSC", "3D NSD", "2D DSC", "2D NSD"], rows)


def _problems(evaluation: Evaluation) -> list[str]:
    if not evaluation.problems:
        return []
    rows = [
        [problem.dataset, problem.case, problem.reason, "skipped" if problem.skipped else "used"]
        for problem in evaluation.problems
    ]
    return [f"## Problems ({len(rows)})", _table(["data set", "case", "what", "case was"], rows)]


def _times(evaluation: Evaluation) -> list[str]:
    rows = [[model, f"{seconds:.1f}"] for model, seconds in evaluation.seconds.items()]
    return ["## Time spent segmenting", _table(["model", "seconds"], rows)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _interval(mean: Mean) -> str:
    if mean.cases == mean.datasets:  # a single case each: nothing to resample
        return f"{100 * mean.value:.2f}"
    return f"{100 * mean.value:.2f} ({100 * mean.low:.2f}–{100 * mean.high:.2f})"


def _value(score: TaskScore | None, metric: str) -> float | None:
    return None if score is None else 100 * float(getattr(score, metric))


def _pair(score: TaskScore | None) -> str:
    return _figures([_value(score, "dsc"), _value(score, "nsd")])


def _figures(values: Sequence[float | None]) -> str:
    return " / ".join("–" if value is None else f"{value:.2f}" for value in values)


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
