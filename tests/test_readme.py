"""Proves that only the text between the README's markers is ever written.

And that what people wrote around them is true of the files and settings that it names.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ReportError
from pipeline.params import load_params
from pipeline.reporting.readme import differing, fill

ROOT = Path(__file__).parent.parent
FILE_ENDINGS = {"py", "csv", "yaml", "html"}
SECTIONS = {"ONE": "first\nline", "TWO": "| a |\n| --- |"}


def marked(name: str, text: bytes = b"\nold\n") -> bytes:
    return b"<!--AUTO:%s:START-->%s<!--AUTO:%s:END-->" % (name.encode(), text, name.encode())


README = b"# Title\n\n" + marked("ONE") + b"\n\nprose\n" + marked("TWO") + b"\nend, no newline"


def test_sections_stand_between_their_markers() -> None:
    assert fill(README, SECTIONS) == (
        b"# Title\n\n"
        b"<!--AUTO:ONE:START-->\nfirst\nline\n<!--AUTO:ONE:END-->\n\nprose\n"
        b"<!--AUTO:TWO:START-->\n| a |\n| --- |\n<!--AUTO:TWO:END-->\nend, no newline"
    )


@given(st.lists(st.binary(), min_size=3, max_size=3), st.text(), st.text())
def test_what_is_outside_stays_as_it_is_to_the_byte(prose: list[bytes], one: str, two: str) -> None:
    before, between, after = (text.replace(b"<!--AUTO:", b"") for text in prose)
    readme = before + marked("TWO") + between + marked("ONE") + after
    sections = {"ONE": one.replace("\r", ""), "TWO": two.replace("\r", "")}
    sections = {
        name: "".join(c for c in text if not "\ud800" <= c <= "\udfff")
        for name, text in sections.items()
    }
    filled = fill(readme, sections)
    assert filled.startswith(before + b"<!--AUTO:TWO:START-->")
    assert b"<!--AUTO:TWO:END-->" + between + b"<!--AUTO:ONE:START-->" in filled
    assert filled.endswith(b"<!--AUTO:ONE:END-->" + after)
    assert fill(filled, sections) == filled
    assert differing(filled, sections) == []


def test_windows_line_ends_are_kept_and_used_inside() -> None:
    filled = fill(README.replace(b"\n", b"\r\n"), SECTIONS)
    assert filled == fill(README, SECTIONS).replace(b"\n", b"\r\n")
    assert differing(filled, SECTIONS) == []


def test_a_changed_digit_is_named_by_its_section() -> None:
    sections = {"ONE": "loss 3.1415", "TWO": "steps 100"}
    filled = fill(README, sections)
    assert differing(filled.replace(b"3.1415", b"3.1416"), sections) == ["ONE"]
    assert differing(filled.replace(b"steps 100", b"steps 101"), sections) == ["TWO"]


def test_other_peoples_sections_are_left_alone() -> None:
    readme = README + marked("SWEEP", b"theirs")
    assert fill(readme, SECTIONS) == fill(README, SECTIONS) + marked("SWEEP", b"theirs")


def test_a_sample_cannot_forge_a_marker() -> None:
    sections = {**SECTIONS, "ONE": "<!--AUTO:ONE:END--> then <!--AUTO:TWO:START-->"}
    filled = fill(README, sections)
    assert fill(filled, sections) == filled
    assert b"<!-- AUTO:ONE:END --> then <!-- AUTO:TWO:START -->" in filled


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        (marked("ONE"), "section TWO: found no markers"),
        (README + marked("ONE"), "marker ONE:START: found twice"),
        (README.replace(b"ONE:END", b"ON:END"), "marker ON:END: found alone"),
        (README.replace(b"<!--AUTO:TWO:END-->", b""), "marker TWO:START: found alone"),
        (README.replace(b"<!--AUTO:TWO:START-->", b""), "line 10: marker TWO:END: found alone"),
        (marked("ONE", marked("TWO")), "line 1: marker TWO:START: found inside ONE"),
        (marked("SWEEP", marked("ONE")) + marked("TWO"), "found inside SWEEP"),
    ],
)
def test_broken_markers_are_an_error_of_one_line(readme: bytes, message: str) -> None:
    for function in (fill, differing):
        with pytest.raises(ReportError) as caught:
            function(readme, SECTIONS)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_map_names_every_module_and_every_line_of_it_is_true() -> None:
    """The README is the way into the code."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("\npipeline/\n")[1].split("\ntests/")[0]
    named, folder = set(), Path("pipeline")
    for line in tree.splitlines():
        name = line.split()[0]
        if name.endswith("/"):
            folder = Path("pipeline", name)
        else:
            depth_one = line.startswith("  ") and not line.startswith("    ")
            named.add((Path("pipeline") if depth_one else folder) / name)
    modules = {path.relative_to(ROOT) for path in (ROOT / "pipeline").rglob("*.py")}
    assert named == {path for path in modules if path.name != "__init__.py"}


def test_every_link_within_it_leads_to_a_heading() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", text))
    # as GitHub makes them: https://docs.github.com/en/get-started/writing-on-github
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(linked) > 10
    assert linked <= anchors


def test_every_setting_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    params = load_params(ROOT / "params.yaml").model_dump()
    prose = re.sub(rb"(?s)(<!--AUTO:\w+:START-->).*?(<!--AUTO:)", rb"\1\2", text.encode()).decode()
    pattern = rf"\b({'|'.join(params)})\.([a-z_0-9]+)\b(?!/)"
    for section, key in re.findall(pattern, prose):
        assert key in params[section] or key in FILE_ENDINGS, f"{section}.{key}"
    assert "train.lr" in prose


def test_the_readme_has_every_section_that_report_writes() -> None:
    names = ("SUMMARY", "PLOT", "METRICS", "LOGS", "SAMPLES", "PROVENANCE")
    fill((ROOT / "README.md").read_bytes(), dict.fromkeys(names, ""))
