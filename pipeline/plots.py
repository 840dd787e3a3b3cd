"""Command plots: the page that DVC draws its plots in, with Vega inside.

DVC's own page loads Vega from the network. This one is made once, on this machine, from the bundle
that vl-convert carries; `.dvc/config.local` names it, so that where it was not made DVC falls back
to its own. Neither file is committed.
"""

from pathlib import Path

from pipeline.errors import ReportError
from pipeline.reporting.stages import dvc
from pipeline.storage import write_text

DVC = Path(".dvc")
PAGE = DVC / "plots.html"
TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<link rel="icon" href="data:,">
<title>DVC plots</title>
<script>%s</script>
<style>
body { margin: 1rem; font-family: system-ui, sans-serif; }
main { display: flex; flex-wrap: wrap; gap: 1.5rem; }
main > div { max-width: 100%%; overflow-x: auto; }
table { border-spacing: 15px; }
</style>
</head>
<body><main>
{plot_divs}
</main></body>
</html>
"""


def plots() -> None:
    """Make `dvc plots show` and `dvc plots diff` open offline; once is enough.

    Example: python -m pipeline plots
    """
    import vl_convert

    if not DVC.is_dir():
        raise ReportError(f"{DVC}: not found; run from the project's top folder")
    # its stub asks for a snippet, without which the bundle is the whole of Vega
    script = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    write_text(PAGE, TEMPLATE % script.replace("</script", "<\\/script"))
    dvc("config", "--quiet", "--local", "plots.html_template", PAGE.name)
    print(f"wrote {PAGE}: `dvc plots show` and `dvc plots diff` open offline")
