"""Reports: one self-contained HTML page per run, readable on a phone, in light and in dark.

Here is what the reports of all commands have in common: the blocks a page is made of, what was run, the methods
paragraph with its references, and how numbers are written.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from neuroattn import __version__
from neuroattn._references import REFERENCES, Reference
from neuroattn.analyses.style import THEME
from neuroattn.results import replacing

#: Of a chart that shows values as they are.
NO_INTERVALS = "Nothing was resampled, and no interval is drawn."


@dataclass(frozen=True)
class Paragraph:
    """Plain text; with ``paste`` one click selects all of it."""

    kind: ClassVar[str] = "paragraph"
    text: str
    paste: bool = False


@dataclass(frozen=True)
class Chart:
    """An SVG from :func:`neuroattn.analyses.style.to_svg` with a title and what it shows.

    ``intervals`` ends the caption: what the intervals are and what was resampled, or :data:`NO_INTERVALS`.
    """

    svg: str
    title: str
    caption: str
    intervals: str


@dataclass(frozen=True)
class Figures:
    """Charts side by side where the page is wide enough."""

    kind: ClassVar[str] = "figures"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Cell:
    """Text of a table with an optional note in small print."""

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under named columns; ``folded`` hides them behind their caption."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Pairs:
    """Names and values."""

    kind: ClassVar[str] = "pairs"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class References:
    """Numbered publications."""

    kind: ClassVar[str] = "references"
    references: Sequence[Reference]


@dataclass(frozen=True)
class Fact:
    """One number of the summary."""

    name: str
    value: str
    note: str = ""


Block = Paragraph | Figures | Table | Pairs | Bullets | References


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


def render_report(
    path: str | Path,
    *,
    title: str,
    subtitle: str,
    summary: Sequence[str],
    sections: Sequence[Section],
    facts: Sequence[Fact] = (),
    banner: str | None = None,
) -> None:
    """Write a report as one HTML file that loads nothing from elsewhere.

    Parameters
    ----------
    path : str or Path
        Whole or absent: an error leaves what was there.
    title, subtitle : str
    summary : sequence of str
        Paragraphs that say what was found, above everything else.
    sections : sequence of Section
        Sections without blocks are left out.
    facts : sequence of Fact
        The few numbers to remember.
    banner : str, optional
        What a reader must know before any number.

    Examples
    --------
    >>> import tempfile
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> render_report(page, title="Run 1", subtitle="ridge", summary=["r < 1."],
    ...               sections=[Section("Data", [Paragraph("Two sessions.")])])
    >>> "<p>r &lt; 1.</p>" in page.read_text(encoding="utf-8")
    True
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("neuroattn.analyses"), autoescape=True, undefined=StrictUndefined
    )
    # Only drawings made here are markup; every other text is escaped.
    environment.filters["drawing"] = Markup
    page = environment.get_template("report.html").render(
        title=title,
        subtitle=subtitle,
        summary=summary,
        sections=[section for section in sections if section.blocks],
        facts=facts,
        banner=banner,
        theme=THEME,
        version=__version__,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


class Citations:
    """Number publications in the order in which a text cites them.

    Examples
    --------
    >>> cite = Citations()
    >>> f"Searches {cite('gupta2021')} and paths {cite('fang2024')}, as before {cite('gupta2021')}."
    'Searches [1] and paths [2], as before [1].'
    >>> [reference.key for reference in cite.references]
    ['gupta2021', 'fang2024']
    """

    def __init__(self) -> None:
        self.references: list[Reference] = []

    def __call__(self, key: str) -> str:
        """Return the number of a publication of :data:`neuroattn._references.REFERENCES` in brackets."""
        reference = REFERENCES[key]
        if reference not in self.references:
            self.references.append(reference)
        return f"[{self.references.index(reference) + 1}]"


def methods_section(
    sentences: Iterable[str],
    cite: Citations,
    *,
    seeds: int | Sequence[int] | None,
    versions: Mapping[str, str] | None = None,
) -> Section:
    """Return the paragraph of methods that can be pasted, and the publications that it cites.

    Parameters
    ----------
    sentences : iterable of str
        Empty ones are left out. The versions of the software and the seeds are added.
    cite : Citations
        What the sentences cite.
    seeds : int, sequence of int or None
        None where nothing was random, or the seed is not known.
    versions : mapping of str to str, optional
        Versions by package; those of :func:`installed_versions` by default.

    Examples
    --------
    >>> section = methods_section(["Mean r was .5."], Citations(), seeds=[0, 1], versions={"neuroattn": "0.1.0"})
    >>> section.blocks[0].text
    'Mean r was .5. Software: neuroattn 0.1.0; seeds 0 and 1.'
    """
    software = listed_versions(installed_versions() if versions is None else versions)
    drawn = "" if seeds is None else f"; {_seeds(seeds)}"
    text = " ".join([*filter(None, sentences), f"Software: {software}{drawn}."])
    blocks: list[Block] = [Paragraph(text, paste=True)]
    if cite.references:
        blocks.append(References(cite.references))
    return Section("Methods, ready to paste", blocks)


def run_section(rows: Iterable[tuple[str, Any]], notes: Sequence[Any] = ()) -> Section:
    """Return what was run: names and values, and notes from reading the data.

    Parameters
    ----------
    rows : iterable of (str, object)
        Rows whose value is None or empty are left out.
    notes : sequence, optional

    Examples
    --------
    >>> run_section([("Data", "subj01"), ("Layer", None)]).blocks
    [Pairs(rows=[('Data', 'subj01')])]
    """
    blocks: list[Block] = [Pairs([(name, str(value)) for name, value in rows if value not in (None, "")])]
    if notes:
        blocks += [Paragraph("Notes from reading the data:"), Bullets([str(note) for note in notes])]
    return Section("What was run", blocks)


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of neuroattn, Python, torch, numpy and further packages.

    Examples
    --------
    >>> list(installed_versions("mne"))
    ['neuroattn', 'python', 'torch', 'numpy', 'mne']
    """
    running = {"neuroattn": __version__, "python": platform.python_version()}
    return running | {name: version(name) for name in ("torch", "numpy", *packages)}


def listed_versions(versions: Mapping[str, str]) -> str:
    """Return packages and their versions as a list in words.

    Examples
    --------
    >>> listed_versions({"torch": "2.11.0", "numpy": "2.3.4"})
    'torch 2.11.0, numpy 2.3.4'
    """
    return ", ".join(f"{name} {one}" for name, one in versions.items())


def number(value: Any, digits: int = 2, *, signed: bool = False) -> str:
    """Return a number as reports write it.

    Examples
    --------
    >>> number(-0.126), number(0.5, 3, signed=True), number(-0.0001), number(float("nan"))
    ('−0.13', '+0.500', '0.00', '–')
    """
    if not np.isfinite(float(value)):
        return "–"
    text = f"{float(value):{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def span(low: Any, high: Any, *, digits: int = 2, signed: bool = False) -> str:
    """Return an interval as reports write it.

    Examples
    --------
    >>> span(-0.126, 0.5)
    '−0.13 to 0.50'
    """
    return f"{number(low, digits, signed=signed)} to {number(high, digits, signed=signed)}"


def plural(n: int, noun: str, several: str = "") -> str:
    """Return how many there are; ``several`` is the plural where it is not the noun with an s.

    Examples
    --------
    >>> plural(1, "trial"), plural(1200, "trial"), plural(2, "query", "queries")
    ('1 trial', '1,200 trials', '2 queries')
    """
    return f"{n:,} {noun if n == 1 else several or noun + 's'}"


def listed(names: Iterable[Any], *, most: int | None = None) -> str:
    """Return names as a list in words, the first ``most`` of them.

    Examples
    --------
    >>> listed(["V1", "V2", "V4"]), listed(range(9), most=2)
    ('V1, V2 and V4', '0, 1 and 7 more')
    """
    shown = [str(name) for name in names]
    if most is not None and len(shown) > most:
        shown[most:] = [f"{len(shown) - most} more"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)


def _seeds(seeds: int | Sequence[int]) -> str:
    several = np.atleast_1d(seeds).tolist()
    return f"seed{'s' if len(several) > 1 else ''} {listed(several)}"
