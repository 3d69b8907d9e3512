"""The documentation site: pages, tables of contents, API reference, links, and pages whose code runs in order."""

import contextlib
import importlib
import io
import pkgutil
import re
from pathlib import Path

import pytest
import torch
import typer

import attribkit
from attribkit import Attribution, registry
from attribkit.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = ("_build", "gallery_output", "generated", "_templates")
MARKDOWN = [
    path
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "plugins").rglob("*.md")]
    if not {*GENERATED, ".venv", "node_modules"} & set(path.parts)
]
PAGES = [path for path in MARKDOWN if path.is_relative_to(DOCS)]
IN_ORDER = ("index", "tutorial", "own_model", "heatmaps_with_care")  # pages whose code runs from top to bottom
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def in_toctrees():
    """The pages that some table of contents lists, as paths without suffix."""
    listed = set()
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            listed |= {(page.parent / line).resolve().relative_to(DOCS.resolve()).as_posix() for line in lines}
    return listed


def test_every_page_is_in_a_table_of_contents():
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES} - {"index"}
    assert pages <= in_toctrees()
    assert in_toctrees() - pages == {"gallery_output/index"}


@pytest.mark.parametrize(
    ("classes", "folder"),
    [(registry.methods, "methods"), (registry.metrics, "metrics"), (registry.visualizers, "visualizers")],
    ids=["methods", "metrics", "visualizers"],
)
def test_everything_registered_has_a_page_in_the_tables_of_contents(classes, folder):
    pages = {page: (DOCS / f"{page}.md").read_text() for page in in_toctrees() if page.startswith(folder)}
    for name, cls in classes().items():
        if registry.plugin_of(cls).distribution == "attribkit":
            headline = f'`{folder.removesuffix("s")}="{name}"`'
            assert sum(headline in text for text in pages.values()) == 1, f"{name}: one page must contain {headline}"


@pytest.mark.parametrize("path", sorted((DOCS / "gallery").glob("*.py")), ids=lambda path: path.stem)
def test_examples_of_the_gallery_state_a_question_and_what_to_see(path):
    text = path.read_text()
    assert text.startswith('r"""\n')
    assert "\n**Question**: " in text
    assert "\n# **What to see**: " in text
    assert max(map(len, text.splitlines())) <= 145


def modules():
    """The module of each page of the API reference."""
    return {
        path.stem if path.stem == "attribkit" else f"attribkit.{path.stem}": path.read_text()
        for path in (DOCS / "api").glob("*.md")
        if path.stem != "index"
    }


def test_every_public_name_is_in_the_api_reference():
    found = {info.name for info in pkgutil.walk_packages(attribkit.__path__, "attribkit.") if "._" not in info.name}
    assert set(modules()) == {"attribkit", *found}
    for name, page in modules().items():
        listed = re.findall(r"^   (\w+)$", page, re.MULTILINE)
        if f".. automodule:: {name}\n   :members:\n   :imported-members:" in page:  # sphinx documents all of __all__
            assert importlib.import_module(name).__all__
        else:
            assert sorted(listed) == sorted(importlib.import_module(name).__all__)


def anchors(path):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*plain, *re.findall(r'<a id="([\w-]+)"', text)}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    for link, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", text):
        target = (path.parent / link).resolve() if link else path
        if link == "gallery_output/index":  # made by the build
            continue
        assert target.exists(), f"{link} does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}#{anchor} is not a heading"


def test_the_index_for_language_models_links_pages_that_exist():
    links = re.findall(r"\]\(([^)]+)\.html\)", (DOCS / "_extra" / "llms.txt").read_text())
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES} | {"gallery_output/index"}
    generated = {link for link in links if link.startswith("api/generated/")}
    assert set(links) - generated <= pages
    assert {link.rsplit(".", 1)[1] for link in generated} <= set(attribkit.__all__)
    guides = {page for page in pages if "/" not in page} - {"index", "getting_started", "howto", "background"}
    assert guides <= set(links), f"llms.txt leaves out {sorted(guides - set(links))}"


def commands():
    """The commands of the program with their options."""
    program = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in program.commands.items()
    }


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_their_options_exist(path):
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*attribkit ([a-z]\w*)([^#>]*)", line):
                assert match[1] in commands(), line
                options = re.findall(r"(?<=\s)(--?[a-z][\w-]*)", match[2])
                assert set(options) <= {*commands()[match[1]], "--help"}, line


def test_every_command_is_on_the_page_of_the_command_line():
    page = (DOCS / "command_line.md").read_text()
    assert all(f"`attribkit {name}" in page for name in commands())


def assert_printed(printed, expected):
    """Compare text, and its numbers up to 5 % or 0.02: these pages run on many machines."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", expected).split()
    values = zip(map(float, NUMBER.findall(printed)), map(float, NUMBER.findall(expected)), strict=True)
    assert all(a == pytest.approx(b, rel=0.05, abs=0.02) for a, b in values), printed


@pytest.mark.parametrize("page", IN_ORDER)
def test_the_code_of_a_page_runs_in_order_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code, expected in BLOCK.findall((DOCS / f"{page}.md").read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert_printed(printed.getvalue(), expected)


def as_tensor(result):
    result = result[0] if isinstance(result, tuple) else result
    return torch.as_tensor(result).double().detach()


def scaled(maps):
    low, high = (each.view(-1, 1, 1) for each in maps.flatten(1).aminmax(dim=1))
    return (maps - low) / (high - low)


def pair(theirs, ours, result):
    """The numbers of both libraries, in one shape."""
    theirs = as_tensor(theirs)
    if not isinstance(ours, Attribution):
        return theirs, as_tensor(ours)
    if theirs.ndim == 3 and theirs.shape[-1] == 3:  # (h, w, c), of one image
        return theirs.permute(2, 0, 1)[None], ours.scores.double()
    if theirs.ndim == 3 and theirs.shape[1:] == ours.heatmap().shape[1:]:
        return theirs, scaled(ours.heatmap().double())
    if theirs.ndim == 3:
        return theirs, ours.scores[:, 0].double()
    if result.startswith("largest over channels"):
        return theirs.amax(1, keepdim=True), ours.scores.double()
    return theirs[:, : ours.scores.shape[1]], ours.scores.double()


def rows_of_migration(library):
    """The setup of a section, and its rows: the call of the peer, that of attribkit, and the result."""
    head, *sections = (DOCS / "migration.md").read_text().split("\n## ")
    (section,) = (each for each in sections if each.startswith(f"{library}\n"))
    setup = [code for text in (head, section) for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    return setup, re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| ([^|]+) \|$", section, re.MULTILINE)


@pytest.mark.filterwarnings("default")  # captum and pytorch-grad-cam warn
@pytest.mark.parametrize("library", ["captum", "pytorch-grad-cam", "torchcam"])
def test_the_rows_of_the_migration_page(library):
    setup, rows = rows_of_migration(library)
    names = {"__name__": "page"}
    for code in setup:
        exec(code, names)
    assert len(rows) > 8
    for peer, ours, result in rows:
        theirs, mine = eval(peer, names), eval(ours, names)
        if result.startswith("other result"):
            continue
        a, b = pair(theirs, mine, result)
        assert a.shape == b.shape, peer
        if result.startswith("close"):
            distance = (
                1 - torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] if a.ndim else (a / b - 1).abs()
            )
            assert distance < 0.05, peer
        else:
            assert result.split(":")[0] in ("equal", "equal after scaling", "largest over channels"), peer
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * a.abs().max().item()), peer
