"""The house rules: who imports whom, what is imported when, what is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tamis"
# Each area may import itself and what stands to its left.
BELOW = {
    "errors": set(),
    "registry": {"errors"},
    "settings": {"errors"},
    "recipe": {"errors", "settings"},
    "samples": {"errors"},
    "numerics": {"errors"},
    "language": {"errors", "recipe", "samples", "numerics"},
    "storage": {"errors", "recipe", "samples"},
    "scoring": {"errors", "registry", "recipe", "samples", "numerics", "language"},
    "selectors": {"errors", "registry", "numerics"},
    "trainer": {"errors", "registry", "recipe", "samples", "numerics", "language", "selectors"},
    "refiners": {"errors", "registry", "recipe", "samples", "numerics", "language"},
    "report": {"errors"},
}
PIPELINES = {*BELOW}
OUTER = {
    "pipelines": PIPELINES,
    "console": {"errors", "pipelines"},
    "demo": {*PIPELINES, "pipelines", "console"},
    "flows": {"errors", "recipe", "pipelines", "console"},
    "commands": {*PIPELINES, "pipelines", "console", "flows", "demo"},
    "cli": {"errors", "commands"},
    "__main__": {"cli"},
    "__init__": {"errors", "recipe", "pipelines", "storage"},
}
# Packages that only these areas may import.
KEEPERS = {
    "duckdb": {"storage"},
    "prefect": {"flows"},
    "transformers": {"language", "trainer", "demo"},
    "peft": {"language", "trainer"},
    "sentence_transformers": {"scoring"},
    "typer": {"cli", "commands"},
    "yaml": {"recipe", "settings", "commands"},
}
HEAVY = {"torch", "transformers", "peft", "sentence_transformers", "datasets", "sklearn", "prefect"}
FILES = sorted(PACKAGE.rglob("*.py"))


def area(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module of a file, and whether the import stands at the top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            names = [f"{base}.{a.name}" for a in node.names] if base == "tamis" else [base]
        else:
            continue
        found += [(name, id(node) in top and id(node) not in guarded) for name in names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = area(path)
    allowed = {**BELOW, **OUTER}[here] | {here}
    for name, _ in imports(path):
        if name.startswith("tamis."):
            there = name.split(".")[1]
            is_area = (PACKAGE / there).is_dir() or (PACKAGE / f"{there}.py").is_file()
            assert there in allowed or not is_area, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_library_has_its_keeper_and_heavy_ones_are_imported_late(path: Path) -> None:
    for name, top in imports(path):
        package = name.split(".")[0]
        assert area(path) in KEEPERS.get(package, {area(path)}), f"{path}: {name}"
        if package in HEAVY and area(path) != "flows":
            assert not top, f"{path.relative_to(ROOT)} imports {name} at the top"


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv=['tamis','--help']\n"
        "from tamis.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "ingest" in done.stdout
    loaded = set(ast.literal_eval(done.stderr.strip().splitlines()[-1]))
    heavy = {"torch", "numpy", "pyarrow", "duckdb", "transformers", "prefect", "pydantic", "rich"}
    assert loaded & heavy == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_things_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.relative_to(ROOT)}: {node.name}"


def test_nothing_dangerous_is_called() -> None:
    banned = re.compile(
        r"\bpickle\.loads?\(|\beval\((?!\))|\bexec\(|shell=True|trust_remote_code=True"
    )
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if banned.search(line) and ".eval(" not in line:
                pytest.fail(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")


def test_no_file_of_the_package_is_run_by_its_path() -> None:
    """`python tamis/x.py` would put tamis/ on the path, where selectors/ shadows the library's."""
    for path in [ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert not re.search(r"python3? tamis/", path.read_text(encoding="utf-8")), path
