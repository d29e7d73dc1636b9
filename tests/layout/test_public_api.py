"""Public names: one committed list, and a documented example for each."""

import importlib
import inspect
from pathlib import Path

import pytest

import neuroattn

LIST = Path(__file__).with_name("public_api.txt")


def public_objects():
    """Return every public function, class and constant by its dotted name."""
    objects = {}
    for package in neuroattn._SUBMODULES:
        module = importlib.import_module(f"neuroattn.{package}")
        objects |= {f"neuroattn.{package}.{name}": getattr(module, name) for name in module.__all__}
    return objects


OBJECTS = public_objects()


def test_public_names_are_those_of_the_list():
    """A changed interface is a changed line of public_api.txt, and a line in the changelog."""
    assert sorted(OBJECTS) == LIST.read_text().splitlines()


def test_public_names_are_listed_once():
    for package in neuroattn._SUBMODULES:
        names = importlib.import_module(f"neuroattn.{package}").__all__
        assert len(set(names)) == len(names), package


def test_dir_of_the_package_is_its_public_names():
    assert set(dir(neuroattn)) == {"__version__", *neuroattn._SUBMODULES}
    with pytest.raises(AttributeError, match="'neuroattn' has no attribute 'telepathy'"):
        _ = neuroattn.telepathy


@pytest.mark.parametrize("name", [name for name, item in OBJECTS.items() if callable(item)])
def test_docstring_has_an_example(name):
    doc = inspect.getdoc(OBJECTS[name])
    assert doc is not None
    assert OBJECTS[name].__doc__, "the docstring must be its own"
    assert doc.splitlines()[0].rstrip().endswith((".", "]_.", ":"))
    _, heading, example = doc.partition("Examples\n--------\n")
    assert heading
    assert ">>>" in example


@pytest.mark.parametrize("name", [name for name, item in OBJECTS.items() if inspect.isclass(item)])
def test_public_methods_have_docstrings(name):
    """What braindecode gives to its models has its own documentation."""
    undocumented = []
    for member, value in vars(OBJECTS[name]).items():
        method = getattr(value, "fget", getattr(value, "__func__", value))
        ours = inspect.isfunction(method) and method.__module__.startswith("neuroattn.")
        if ours and not member.startswith("_") and not inspect.getdoc(getattr(OBJECTS[name], member)):
            undocumented.append(member)
    assert undocumented == []
