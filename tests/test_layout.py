"""The shape of the repository: links, import directions, what a wheel holds, and a quick `--help`."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ufbert

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


# Who may import whom: a folder of `ufbert/` imports those that stand below it. Beside each other on a line stand
# folders that know nothing of each other.
FLOORS = (
    ("commands",),
    ("benchmark",),
    ("pretraining",),
    ("inference", "finetuning", "conversion", "hf"),
    ("text", "training"),
    ("settings",),
    ("model",),
    ("cmm",),
    ("checkpoint", "system"),
    ("errors", "reporting"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The probes of memory are kernels too, and the machine is measured with them.
KERNEL_USERS = (("cmm",), ("inference", "engine"), ("benchmark", "layer"), ("benchmark", "machine"))


def python_files(folder: str) -> list[Path]:
    links = [ROOT / "ufbert" / name for name in ("commands", "numba_kernels", "cuda")]
    return [f for f in sorted((ROOT / folder).rglob("*.py")) if not any(link in f.parents for link in links)]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    dotted = parts if parts[0] == "ufbert" else ("ufbert", *parts)
    return ".".join(dotted[:-1] if dotted[-1] == "__init__" else dotted)


FILES = {module_name(f): f for folder in ("ufbert", "commands", "numba_kernels", "cuda") for f in python_files(folder)}


def imports(file: Path) -> set[str]:
    """Absolute names of the modules that `file` imports anywhere, whichever way it writes that."""
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` names a module; `from module import name` only looks like it.
            modules = {f"{base}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= modules
            if len(modules) < len(node.names):
                found.add(base)
    return found


def reaches(file: Path, *packages: str) -> set[str]:
    return {name for name in imports(file) if any(name == p or name.startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("name", ["commands", "numba_kernels", "cuda", "recipes"])
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
    if not any(file.relative_to(ROOT).parts[1 : len(room) + 1] == room for room in KERNEL_USERS):
        assert not reaches(file, "ufbert.numba_kernels", "ufbert.cuda", "numba")


def test_imports_between_folders_go_down() -> None:
    upwards = []
    for name, file in FILES.items():
        room = name.split(".")[1] if "." in name else ""
        for other in imports(file):
            target = other.split(".")[1] if other.startswith("ufbert.") else ""
            if room in FLOOR and target in FLOOR and target != room and FLOOR[target] <= FLOOR[room]:
                upwards.append(f"{name} -> {other}")
    assert upwards == []


def test_every_folder_of_the_core_has_its_floor() -> None:
    rooms = {name.split(".")[1] for name in FILES if name.count(".")} - {"__main__", "numba_kernels", "cuda"}
    assert rooms == FLOOR.keys()


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: {other for other in imports(file) if other in FILES} - {name} for name, file in FILES.items()}
    del graph["ufbert"]  # it imports its public names on first use only
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


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
    expected |= {f"ufbert/settings/presets/{name}.toml" for name in ("crammed-1x11", "crammed-dense", "small", "tiny")}
    expected |= {"ufbert/recipes/quality.toml", "ufbert/py.typed"}
    assert {name for name in names if ".dist-info/" not in name} == expected


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
