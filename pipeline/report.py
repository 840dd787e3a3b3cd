"""report: figures, results.md, report.html, samples.txt, provenance.json, the README's sections.

README.md is no output of the stage: only the sections between its markers are written, and
people's prose around them never makes a stage stale. `--check` compares instead of writing.
"""

from pathlib import Path

import typer

from pipeline.params import Params, load_params
from pipeline.paths import FIGURES, PROVENANCE, README, REPORT_PAGE, REPORTS, RESULTS_PAGE, SAMPLES


def report(
    check: bool = typer.Option(False, "--check", help="Write nothing; fail if anything differs."),
) -> None:
    """Write figures, results and the README's marked sections from the last run.

    Example: `python -m pipeline report --check`
    """
    from pipeline.reporting.results import refuse_changed_start
    from pipeline.reporting.stages import refuse_stale_inputs
    from pipeline.reporting.written import left_over, write_or_compare

    params = load_params()
    refuse_stale_inputs()
    refuse_changed_start()
    files, sections = _rendered(params)
    leftover = left_over(FIGURES, files)

    said = "the results say; run `make report`"
    removed = write_or_compare(files, leftover, sections, check, said)
    if check:
        print(
            f"{REPORTS}/ and the sections {', '.join(sections)} of {README} are what the results "
            "say; `verify` checks those of sweeps and benchmarks too"
        )
        return
    for path in removed:
        print(f"removed {path}: a figure of an earlier run")
    print(f"wrote {REPORTS}/ and the sections {', '.join(sections)} of {README}")


def _rendered(params: Params) -> tuple[dict[Path, bytes], dict[str, str]]:
    """Every file under reports/ that this stage writes, and the README's sections."""
    import json

    from pipeline.reporting.page import report_page
    from pipeline.reporting.plots import draw_figures
    from pipeline.reporting.provenance import provenance
    from pipeline.reporting.results import read_results
    from pipeline.reporting.sections import readme_sections, results_page
    from pipeline.reporting.stages import read_stages
    from pipeline.training.samples import format_samples

    results = read_results()
    stages = read_stages()
    origin = provenance(results, stages, params)
    settings = params.model_dump(exclude={"log"})  # which can change no result
    figures = draw_figures(results, params.report.smoothing, params.report.dpi)
    sections = readme_sections(results, origin, reports="")
    texts = {
        RESULTS_PAGE: results_page(sections, settings),
        REPORT_PAGE: report_page(results, stages, settings, sections, figures),
        SAMPLES: format_samples([*results.run["samples"], *results.generated]),
        PROVENANCE: json.dumps(origin, indent=2, ensure_ascii=False) + "\n",
    }
    files = {FIGURES / name: data for name, data in figures.items()}
    files |= {path: text.encode() for path, text in texts.items()}
    return files, readme_sections(results, origin)
