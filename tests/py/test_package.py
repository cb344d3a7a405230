"""What holds of every file of the package."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import nettlp_gdb.core

SCRIPTS = Path(nettlp_gdb.core.__file__).resolve().parent.parent.parent
FILES = sorted([SCRIPTS / "nettlp-gdb.py", *SCRIPTS.glob("nettlp_gdb/**/*.py")])
OLDEST_PYTHON = (3, 8)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_oldest_python_reads_it(path):
    ast.parse(path.read_text(), feature_version=OLDEST_PYTHON)


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(nettlp_gdb.core.__path__)])
def test_the_core_needs_no_gdb(name):
    module = importlib.import_module(f"nettlp_gdb.core.{name}")
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    outside = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level != 1}
    assert not (imported | outside) - {"collections", "itertools", "json", "re", "struct", "typing"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
