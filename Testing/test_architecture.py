"""Who may import whom, read off the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "DBSAMSegment" / "dbsam"
TRAINING = ROOT / "DBSAMTraining" / "dbsam_training"
SLICER = ("slicer", "qt", "ctk", "vtk", "vtkmodules", "mrml")


def library(*rooms: str) -> list[Path]:
    return [file for room in rooms or ("",) for file in sorted((LIBRARY / room).rglob("*.py"))]


def training(*rooms: str) -> list[Path]:
    return [file for room in rooms or ("",) for file in sorted((TRAINING / room).rglob("*.py"))]


TOP = sorted(LIBRARY.glob("*.py"))

# Each room imports itself and what stands before it: data flow one way. `settings` are single files.
ROOMS = {
    LIBRARY: (
        ("__init__", "progress"), ("geometry",), ("preprocess",), ("io",), ("modeling",), ("inference",), ("weights",),
        ("api",), ("worker", "cli"), ("__main__",),
    ),
    TRAINING: (
        ("__init__", "resources", "schema", "recipe", "figures"), ("data",), ("store",), ("batches",),
        ("trainer", "evaluate"), ("cli", "cli_training"), ("train",),
    ),
}  # fmt: skip
FILES = ("SimpleITK", "nibabel", "pydicom", "highdicom", "PIL")
TORCH = ("torch", "torchvision", "segment_anything")

# (what it is, files, packages that none of them imports, whether imports inside functions count too)
RULES = [
    ("the library knows no Slicer", library(), SLICER, True),
    ("the library knows no training", library(), ("dbsam_training",), True),
    ("the library needs no test tools", library(), ("pytest", "matplotlib", "cv2"), True),
    ("files are read and written in io", [f for f in library() if f.parent.name != "io"], FILES, True),
    ("io imports its readers when it reads, as Slicer lacks some", library("io"), FILES, False),
    ("geometry and io know no torch", [*library("geometry"), *library("io")], TORCH, True),
    ("what loads no model loads no torch", [*library("preprocess", "cli"), *TOP], TORCH, False),
    ("training knows no Slicer", training(), SLICER, True),
    ("nothing imports tests or benchmarks", [*library(), *training()], ("Testing", "benchmarks", "conftest"), True),
]


def imports(file: Path, nested: bool) -> Iterator[str]:
    """Modules that a file imports, outside `if TYPE_CHECKING`; those of functions only if `nested`."""
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"), str(file))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} line {node.lineno}: imports are absolute here"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not nested:
            continue
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize(("what", "files", "forbidden", "nested"), RULES, ids=[rule[0] for rule in RULES])
def test_import_table(what, files, forbidden, nested):
    found = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files
        for module in imports(file, nested)
        if module.split(".")[0] in forbidden
    ]
    assert not found, what


def test_slicer_modules_need_only_what_slicer_has_when_it_starts():
    """Torch, dbsam and even the modules' own helpers are imported at first use: a start of Slicer pays for none."""
    modules = sorted({*ROOT.glob("DBSAM*/DBSAM*.py"), *ROOT.glob("DBSAM*/SegmentEditor*.py")})
    allowed = {*sys.stdlib_module_names, "slicer", "vtk", "qt", "ctk", "numpy"}
    found = [(file.name, module) for file in modules for module in imports(file, nested=False)]
    assert modules
    assert [(name, module) for name, module in found if module.split(".")[0] not in allowed] == []


def test_metrics_losses_and_data_know_no_trainer():
    files = [*training("data", "store"), TRAINING / "evaluate" / "metrics.py", TRAINING / "trainer" / "losses.py"]
    found = [(str(file), module) for file in files for module in imports(file, nested=True)]
    assert len(files) > 10
    assert [(name, module) for name, module in found if module.startswith("dbsam_training.trainer.")] == []


@pytest.mark.parametrize("package", ROOMS, ids=lambda package: package.name)
def test_imports_follow_the_order_of_the_rooms(package):
    """No import points to a later room, also none inside a function; no room of one rank imports its neighbour."""
    rank = {room: number for number, rooms in enumerate(ROOMS[package]) for room in rooms}
    against = []
    for file in sorted(package.rglob("*.py")):
        room = file.relative_to(package).parts[0].removesuffix(".py")
        for module in imports(file, nested=True):
            parts = module.split(".")
            if parts[0] != package.name or len(parts) < 2 or parts[1] not in rank or parts[1] == room:
                continue
            if rank[parts[1]] > rank[room] or (rank[parts[1]] == rank[room] and (package / parts[1]).is_dir()):
                against.append(f"{file.relative_to(package)} imports {module}")
    assert against == []


@pytest.mark.parametrize("package", ROOMS, ids=lambda package: package.name)
def test_every_file_lies_in_a_room_whose_order_is_known(package):
    known = {room for rooms in ROOMS[package] for room in rooms}
    assert {file.relative_to(package).parts[0].removesuffix(".py") for file in package.rglob("*.py")} == known


@pytest.mark.parametrize("package", ROOMS, ids=lambda package: package.name)
def test_no_module_imports_itself_by_way_of_others(package):
    files = {".".join((package.name, *f.relative_to(package).with_suffix("").parts)): f for f in package.rglob("*.py")}
    graph = {name: set(imports(file, nested=False)) & files.keys() for name, file in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize(
    "code",
    [
        "import dbsam",
        "import dbsam; dbsam.OrientedBox; dbsam.read_roi; dbsam.write_segmentation; dbsam.segment",
        "from dbsam.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from dbsam.cli.main import main\nassert main(['weights', 'list']) == 0",
    ],
    ids=["import dbsam", "boxes and files", "dbsam --help", "dbsam weights list"],
)
def test_without_a_model_torch_is_not_loaded(code):
    check = "\nimport sys; loaded = {'torch', 'torchvision', 'segment_anything'} & set(sys.modules); assert not loaded"
    subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True)


def test_every_package_is_installed_and_every_module_lies_in_one():
    """A folder that pyproject.toml forgets works in a checkout and is missing from the wheel."""
    folders = {
        ".".join((package.name, *folder.relative_to(package).parts))
        for package in (LIBRARY, TRAINING)
        for folder in {file.parent for file in package.rglob("*.py")}
    }
    data = {"dbsam.models", "dbsam_training.recipes_files", "dbsam_training.registry_files"}
    assert folders | data == _packages_in_pyproject()


def _packages_in_pyproject() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.partition("\npackages = [")[2].partition("]")[0]
    return {line.strip(' ",') for line in listed.splitlines()} - {""}
