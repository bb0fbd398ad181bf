"""The shape of the repository: links, import directions, what a wheel holds, and a quick `--help`."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ufbert

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports(file: Path) -> set[str]:
    """Absolute names of the modules that `file` imports anywhere, relative ones resolved as ufbert's."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parts = file.relative_to(ROOT).with_suffix("").parts
                package = parts if parts[0] == "ufbert" else ("ufbert", *parts)
                base = ".".join(package[: -node.level])
                found.add(f"{base}.{node.module}" if node.module else base)
            elif node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def python_files(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).rglob("*.py"))
    return [
        f for f in files if not any((ROOT / "ufbert" / n) in f.parents for n in ("commands", "numba_kernels", "cuda"))
    ]


def reaches(file: Path, *packages: str) -> set[str]:
    return {name for name in imports(file) if any(name == p or name.startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("name", ["commands", "numba_kernels", "cuda"])
def test_folders_are_linked_into_the_package(name: str) -> None:
    link = ROOT / "ufbert" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"ufbert.{name}"] == name


def test_cuda_does_not_shadow_nvidias_package() -> None:
    assert not (ROOT / "cuda" / "__init__.py").exists()


@pytest.mark.parametrize("file", python_files("numba_kernels") + python_files("cuda"), ids=str)
def test_kernels_know_neither_torch_nor_the_core(file: Path) -> None:
    own = f"ufbert.{file.relative_to(ROOT).parts[0]}"
    assert not reaches(file, "torch", "typer")
    assert {name for name in reaches(file, "ufbert") if name != "ufbert" and not name.startswith(own)} == set()


@pytest.mark.parametrize("file", python_files("ufbert"), ids=lambda f: str(f.relative_to(ROOT)))
def test_the_core_knows_neither_commands_nor_typer(file: Path) -> None:
    if file.name != "__main__.py":
        assert not reaches(file, "typer", "ufbert.commands")
    if not {"cmm", "engine", "benchmark"} & {*file.parts}:
        assert not reaches(file, "ufbert.numba_kernels", "ufbert.cuda", "numba")


def test_the_systems_are_stated_and_no_code_pretends_to_run_on_others() -> None:
    stated = [c for c in PROJECT["project"]["classifiers"] if c.startswith("Operating System")]
    assert stated == ["Operating System :: MacOS", "Operating System :: POSIX :: Linux"]
    for folder in ("ufbert", "commands", "numba_kernels", "cuda"):
        for file in python_files(folder):
            assert not re.search(r"win32|msvcrt|\.dll|Windows", file.read_text()), file


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    from zipfile import ZipFile

    # A copy: setuptools builds inside the tree, and would pack what an earlier build left there.
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns("build", "dist", "*.egg-info", ".*", "runs", "models", "__pycache__", "venv")

    def ignored(folder: str, names: list[str]) -> set[str]:
        return left_out(folder, names) if Path(folder) == ROOT else {"__pycache__"}

    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"ufbert"}
    expected = {
        "ufbert/" + str(file.relative_to(ROOT / "ufbert" if folder == "ufbert" else ROOT))
        for folder in ("ufbert", "commands", "numba_kernels", "cuda")
        for file in python_files(folder)
    }
    expected |= {f"ufbert/cuda/{file.name}" for pattern in ("*.cu", "*.cuh") for file in (ROOT / "cuda").glob(pattern)}
    assert {name for name in names if ".dist-info/" not in name} == expected | {"ufbert/py.typed"}


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    heavy = ("torch", "numba", "datasets", "numpy", "pyarrow", "transformers", "sklearn", "tokenizers")
    code = (
        "import sys\nfrom ufbert.commands.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip().endswith("[]")
    for command in ("pretrain", "finetune", "convert", "infer", "bench"):
        assert command in result.stdout


def test_public_names_exist_and_versions_agree() -> None:
    for name in ufbert.__all__:
        assert getattr(ufbert, name) is not None
    assert dir(ufbert) == sorted(ufbert.__all__)
    assert PROJECT["project"]["version"] == ufbert.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == ufbert.__version__


def test_every_module_lists_what_it_offers() -> None:
    for folder in ("ufbert", "commands", "numba_kernels", "cuda"):
        for file in python_files(folder):
            text = file.read_text()
            if file.name not in ("__init__.py", "__main__.py"):
                assert "__all__ = [" in text, f"{file} has no __all__"
            assert ast.get_docstring(ast.parse(text)), f"{file} has no docstring"
