"""Configuration of the documentation site: `make docs`."""

import inspect
import os
import re
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen
from sphinx.util.typing import stringify_annotation

import attribkit

HERE = Path(__file__).parent
REPOSITORY = "https://github.com/attribkit/attribkit"

project = "attribkit"
author = "The attribkit developers"
copyright = "the attribkit developers, Apache-2.0"
version = release = attribkit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx-mathjax-offline",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "gallery", "gallery_output/*.ipynb", "gallery_output/sg_execution_times.rst"]
html_extra_path = ["_extra"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "pydata_sphinx_theme"
html_title = "attribkit"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "github_url": REPOSITORY,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
}

default_role = "py:obj"
highlight_language = "none"  # of blocks that do not name one, such as commands
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # names of other libraries, whose inventories need a network
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4
suppress_warnings = [
    "config.cache",  # the functions below cannot be pickled
    "myst.header",  # docs/coverage.md is generated, with small headings
]

autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference"]

STAR = re.compile(r"(?<=[(, ])\*(?=\w+[,)])")  # of a shape, such as (b, c, *space)
OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([\w./-]+)(#[\w-]+)?\)")


def link_to_repository(app, docname, source):
    """Replace relative links to files outside docs/, which GitHub resolves, by their addresses."""
    page = Path(app.env.doc2path(docname))

    def address(match):
        path = (page.parent / match[1] / match[2]).resolve()
        if path.is_relative_to(HERE):
            return match[0]
        if not path.exists():
            raise ValueError(f"{page} links to {match[1]}{match[2]}, which does not exist.")
        kind = "tree" if path.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{path.relative_to(HERE.parent)}{match[3] or ''})"

    source[0] = OUTSIDE.sub(address, source[0])


def escape_shapes(app, what, name, obj, options, lines):
    """Escape the stars of shapes in docstrings, which reStructuredText reads as emphasis."""
    for i, line in enumerate(lines):
        parts = line.split("`")
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = "`".join(STAR.sub(r"\\*", part) if j % 2 == 0 else part for j, part in enumerate(parts))


OPTION_TYPES = {
    stringify_annotation(getattr(attribkit, name), "smart"): name
    for name in ("PositiveInt", "PositiveFloat", "NonNegativeFloat", "Fraction", "OpenFraction", "Seed")
} | {stringify_annotation(Annotated[str, MinLen(1)], "smart"): "str"}


def name_option_types(app, what, name, obj, options, signature, return_annotation):
    """Write the types of options by their names, and leave out those of settings that pydantic validates."""
    if signature and "pydantic" in signature:
        parameters = inspect.signature(obj).parameters.values()
        bare = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
        return str(inspect.Signature(bare)), return_annotation
    for annotation, alias in OPTION_TYPES.items():
        signature = signature and signature.replace(annotation, alias)
    return signature, return_annotation


def attribkit_figures(block, block_vars, gallery_conf):
    """Save the figure that is the last expression of a block of an example; pyplot does not know these figures."""
    from matplotlib.figure import Figure
    from sphinx_gallery.scrapers import figure_rst

    names = block_vars["example_globals"]
    last = names.get("___")
    if not isinstance(last, Figure):
        return ""
    names["___"] = None  # a later block without a last expression does not show the figure again
    path = next(block_vars["image_path_iterator"])
    last.savefig(path, format="png", dpi=200)
    return figure_rst([path], gallery_conf["src_dir"], last.get_supxlabel().replace("\n", " "))


def one_thread(gallery_conf, script):
    """Run examples with one thread, so that their numbers do not depend on the machine's cores."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TQDM_DISABLE", "1")
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "gallery_output",
    "filename_pattern": r"\.py$",
    "image_scrapers": (attribkit_figures, "matplotlib"),
    "reset_modules": ("matplotlib", one_thread),
    "capture_repr": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "plot_gallery": "True",
    "within_subsection_order": "FileNameSortKey",
    "thumbnail_size": (400, 280),
}


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", link_to_repository)
    app.connect("autodoc-process-signature", name_option_types)
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)  # before napoleon
