"""Run-time compilation: every kernel for every architecture, readable errors, and the cache on disk."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ufbert.cuda import compiler, cubin_cache, memory_probe, naive
from ufbert.cuda.compiler import CudaCompileError, cache_key, compile_cubin, cubin, load_source
from ufbert.cuda.launcher import KERNELS
from ufbert.cuda.plan import DTYPES, specialize, vector_width
from ufbert.cuda.unavailable import CudaUnavailable

MACROS = specialize("float32", 8, 1, 4).macros
DRIVER = (13, 0)


@pytest.fixture
def nvrtc() -> tuple[int, int]:
    try:
        return compiler.compiler_version()
    except CudaUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; its folder does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ufbert" / "cuda"


def test_the_source_is_one_text() -> None:
    source = load_source()
    assert "#include" not in source
    for name in KERNELS:
        assert source.count(f"{name}(") == 1


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_compiles(dtype: str, arch: str) -> None:
    layout = specialize(dtype, 768, 11, vector_width(768, dtype, ()))
    code = compile_cubin(load_source(), layout.macros, arch)
    assert code[:4] == b"\x7fELF"
    for name in KERNELS:
        assert name.encode() in code


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(
    ("main_file", "macros", "kernels"),
    [
        *((naive.MAIN_FILE, naive.NaiveLayout(dtype, 768, 11).macros, naive.KERNELS) for dtype in DTYPES),
        (memory_probe.MAIN_FILE, memory_probe.MACROS, memory_probe.KERNELS),
    ],
)
def test_the_benchmarks_kernels_compile(
    main_file: str, macros: tuple[tuple[str, str], ...], kernels: dict[str, int], arch: str
) -> None:
    source = load_source(main_file)
    assert "#include" not in source
    code = compile_cubin(source, macros, arch, main_file)
    for name, count in kernels.items():
        assert name.encode() in code
        assert source[source.index(f"{name}(") :].split(") {")[0].count(",") + 1 == count


def test_every_source_is_compiled_here() -> None:
    folder = Path(compiler.__file__).parent
    files = {compiler.MAIN_FILE, naive.MAIN_FILE, memory_probe.MAIN_FILE}
    assert {path.name for path in folder.glob("*.cu")} == files


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(
    ("dtype", "hidden", "depth", "vector"),
    [
        pytest.param("float32", 33, 0, 1, id="dense-and-odd"),
        pytest.param("float16", 12288, 15, 8, id="gpt3-many-warps"),
        pytest.param("float32", 64, 4, 4, id="shallow-wide-columns"),  # most shared memory
        pytest.param("bfloat16", 1, 31, 1, id="deepest"),
        pytest.param("bfloat16", 200_001, 1, 1, id="row-beyond-registers"),
    ],
)
def test_unusual_shapes_compile(dtype: str, hidden: int, depth: int, vector: int) -> None:
    assert compile_cubin(load_source(), specialize(dtype, hidden, depth, vector).macros, "sm_90")


@pytest.mark.usefixtures("nvrtc")
def test_the_compiler_says_what_it_builds_for() -> None:
    known = compiler.supported_architectures()
    assert {"sm_80", "sm_90"} <= set(known)
    assert known == sorted(known, key=lambda arch: int(arch.removeprefix("sm_")))
    with pytest.raises(CudaCompileError, match="invalid value for --gpu-architecture"):
        compile_cubin(load_source(), MACROS, "sm_35")


@pytest.mark.usefixtures("nvrtc")
def test_a_compile_error_shows_numbered_source_and_log() -> None:
    source = load_source().replace("return 0.5f * s", "return 0.5f * undeclared", 1)
    line = next(n for n, text in enumerate(source.splitlines(), 1) if "undeclared" in text)
    with pytest.raises(CudaCompileError) as caught:
        compile_cubin(source, MACROS, "sm_90")
    text = str(caught.value)
    assert text.startswith("the CUDA kernels do not compile for sm_90 with -DSCALAR=float -DHIDDEN=8")
    assert f"\n{line:5d}  {source.splitlines()[line - 1]}\n" in text
    assert f'cmm.cu({line}): error: identifier "undeclared" is undefined' in text


def test_the_cache_key_knows_every_input() -> None:
    key = cache_key("source", MACROS, "sm_90", (13, 0), DRIVER)
    assert key == cache_key("source", MACROS, "sm_90", (13, 0), DRIVER)
    others = {
        cache_key("other", MACROS, "sm_90", (13, 0), DRIVER),
        cache_key("source", MACROS[:-1], "sm_90", (13, 0), DRIVER),
        cache_key("source", specialize("float32", 8, 2, 4).macros, "sm_90", (13, 0), DRIVER),
        cache_key("source", MACROS, "sm_80", (13, 0), DRIVER),
        cache_key("source", MACROS, "sm_90", (13, 1), DRIVER),
        cache_key("source", MACROS, "sm_90", (13, 0), (13, 1)),
    }
    assert len(others | {key}) == 7


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the compiler; lists the architectures it was asked for."""
    calls: list[str] = []

    def compile_(source: str, macros: tuple[tuple[str, str], ...], arch: str, name: str) -> bytes:
        assert name == compiler.MAIN_FILE
        calls.append(arch)
        return f"code for {arch}".encode()

    monkeypatch.setattr(compiler, "compile_cubin", compile_)
    monkeypatch.setattr(compiler, "compiler_version", lambda: (13, 0))
    return calls


def test_compiled_code_is_reused(cache: Path, compilations: list[str]) -> None:
    assert cubin(MACROS, "sm_90", DRIVER) == cubin(MACROS, "sm_90", DRIVER) == b"code for sm_90"
    assert compilations == ["sm_90"]
    assert cubin(MACROS, "sm_80", DRIVER) == b"code for sm_80"
    assert cubin(MACROS, "sm_90", (13, 1)) == b"code for sm_90"
    assert compilations == ["sm_90", "sm_80", "sm_90"]
    assert len(list(cache.iterdir())) == 3
    assert all(path.suffix == ".cubin" for path in cache.iterdir())


@pytest.mark.parametrize("damage", [b"", b"short", bytes(100)])
def test_a_damaged_file_is_compiled_again(cache: Path, compilations: list[str], damage: bytes) -> None:
    cubin(MACROS, "sm_90", DRIVER)
    (path,) = cache.iterdir()
    good = path.read_bytes()
    path.write_bytes(damage)
    assert cubin(MACROS, "sm_90", DRIVER) == b"code for sm_90"
    assert len(compilations) == 2
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cubin(MACROS, "sm_90", DRIVER) == cubin(MACROS, "sm_90", DRIVER) == b"code for sm_90"
    assert len(compilations) == 2


def test_a_failed_write_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    cubin_cache.write("key", b"code")
    assert list(cache.iterdir()) == []
    assert cubin_cache.read("key") is None


def test_writers_and_readers_at_once_see_whole_files(cache: Path) -> None:
    codes = [bytes([n]) * 50_000 for n in range(4)]
    seen: list[bytes | None] = []

    def work(code: bytes) -> None:
        for _ in range(10):
            cubin_cache.write("key", code)
            seen.append(cubin_cache.read("key"))

    threads = [threading.Thread(target=work, args=(code,)) for code in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert all(code in codes for code in seen)
    assert [path.name for path in cache.iterdir()] == ["key.cubin"]


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cubin_cache.folder() == tmp_path / "ufbert" / "cuda"
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cubin_cache.folder() == Path.home() / ".cache" / "ufbert" / "cuda"
