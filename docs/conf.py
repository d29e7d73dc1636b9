"""Sphinx settings. The build is offline, and every warning is an error."""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

import neuroattn

project = "neuroattn"
author = "The neuroattn developers"
copyright = author
version = release = neuroattn.__version__

extensions = ["sphinx.ext.autodoc", "numpydoc", "myst_parser", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build", "tutorials"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give types and shapes
autodoc_default_options = {
    # What scikit-learn adds to estimators for metadata routing.
    "exclude-members": "set_fit_request, set_predict_request, set_score_request",
}
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",  # every plot_*.py in it is run
    "gallery_dirs": "generated",
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),  # what is printed is shown
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}

# Pages without the column of their own headings: what they show needs the room.
WIDE = ["index", *(f"benchmarks/{page.stem}" for page in Path(__file__).parent.glob("benchmarks/*.md"))]

html_theme = "pydata_sphinx_theme"
html_title = "neuroattn"
html_theme_options = {
    "icon_links": [
        {"name": "Source", "url": "https://github.com/neuroattn/neuroattn", "icon": "fa-brands fa-github"}
    ],
    "secondary_sidebar_items": {"**": ["page-toc"], **{page: [] for page in WIDE}},
    "show_version_warning_banner": False,
}
html_sidebars = {"index": [], "quickstart": []}  # pages without a section
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False


class Commands(Directive):
    """List every verb of the command line with its options, as the command itself states them."""

    def run(self):
        import typer.main

        from neuroattn import cli

        cli.register_verbs()
        return list(self.sections(typer.main.get_command(cli.app), "neuroattn"))

    def sections(self, command, name):
        if hasattr(command, "commands"):
            for word, sub in command.commands.items():
                yield from self.sections(sub, f"{name} {word}")
            return
        section = nodes.section(ids=[nodes.make_id(name)])
        section += nodes.title(text=name)
        for paragraph in command.help.split("\n\n"):
            text = " ".join(paragraph.split())
            if text.startswith("Example: "):
                command_line = text.removeprefix("Example: ")
                section += nodes.literal_block(command_line, command_line, language="bash")
            else:
                section += nodes.paragraph(text=text)
        options = nodes.definition_list()
        for option in command.params:
            if option.param_type_name != "option" or option.name == "help":
                continue
            term = nodes.term()
            term += nodes.literal(text=option.opts[0])
            if not option.is_flag:
                default = option.default
                note = "required" if option.required else "" if default is None else f"default {default}"
                term += nodes.Text(f" {note}")
            definition = nodes.definition("", nodes.paragraph(text=option.help))
            options += nodes.definition_list_item("", term, definition)
        section += options
        yield section


class Benchmarks(Directive):
    """Show what was measured of the benchmarks named in the argument; without one, an overview of all times."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        from neuroattn.kernels.benchmarks import pages, run

        if self.arguments:
            text = "\n\n".join(map(pages.section, run.load_results(*self.arguments[0].split())))
        else:
            text = pages.overview(run.load_results(*run.OPS))
        for path in (pages.__file__, run.__file__, *run.RESULTS.glob("*.json")):
            self.state.document.settings.env.note_dependency(str(path))
        found = nodes.container(classes=["benchmarks"])
        self.state.nested_parse(StringList(text.splitlines(), "benchmarks"), self.content_offset, found)
        return [found]


def skip_fields(app, what, name, item, skip, options):
    """Leave out fields of named tuples, which the docstring of their class describes."""
    return True if str(getattr(item, "__doc__", "")).startswith("Alias for field number") else None


def setup(app):
    app.add_directive("benchmarks", Benchmarks)
    app.add_directive("commands", Commands)
    app.connect("autodoc-skip-member", skip_fields)
