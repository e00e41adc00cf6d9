"""Who may import whom, read off the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "DBSAMSegment" / "dbsam"
TRAINING = ROOT / "DBSAMTraining" / "dbsam_training"
SLICER = ("slicer", "qt", "ctk", "vtk", "vtkmodules", "mrml")


def library(*names: str) -> list[Path]:
    return [LIBRARY / name for name in names] if names else sorted(LIBRARY.rglob("*.py"))


def training(*names: str) -> list[Path]:
    return [TRAINING / name for name in names] if names else sorted(TRAINING.rglob("*.py"))


# (what it is, files, packages that none of them imports, whether imports inside functions count too)
RULES = [
    ("the library knows no Slicer", library(), SLICER, True),
    ("the library knows no training", library(), ("dbsam_training",), True),
    ("SimpleITK is in io.py only", [f for f in library() if f.name != "io.py"], ("SimpleITK",), True),
    ("the library needs no test tools", library(), ("pytest", "scipy", "matplotlib", "cv2", "PIL"), True),
    (
        "what every user of the library imports is free of torch",
        library(
            "__init__.py", "geometry.py", "plane_cut.py", "markups.py", "intensity.py", "segmentation.py", "io.py",
            "progress.py", "terminal.py", "overlay.py", "api.py", "case.py", "batch.py", "cli.py", "cli_models.py",
            "batch_states.py", "dicom_stack.py", "itk_names.py", "nifti.py", "png.py",
        ),
        ("torch", "torchvision", "segment_anything"),
        False,
    ),
    ("training knows no Slicer", training(), SLICER, True),
    ("nothing imports tests or benchmarks", [*library(), *training()], ("Testing", "benchmarks", "conftest"), True),
]  # fmt: skip


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
    trainers = {"dbsam_training.fit", "dbsam_training.train"}
    files = [TRAINING / f"{name}.py" for name in ("metrics", "losses", "data", "store", "augment")]
    found = [(file.name, module) for file in files if file.exists() for module in imports(file, True)]
    assert not [(name, module) for name, module in found if module in trainers]


@pytest.mark.parametrize(
    "code",
    [
        "import dbsam",
        "import dbsam; dbsam.OrientedBox; dbsam.read_roi; dbsam.write_segmentation; dbsam.segment",
        "from dbsam.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from dbsam.cli import main\nassert main(['weights', 'list']) == 0",
    ],
    ids=["import dbsam", "boxes and files", "dbsam --help", "dbsam weights list"],
)
def test_without_a_model_torch_is_not_loaded(code):
    check = "\nimport sys; loaded = {'torch', 'torchvision', 'segment_anything'} & set(sys.modules); assert not loaded"
    subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True)


def test_every_package_is_installed_and_every_module_lies_in_one():
    """A folder that pyproject.toml forgets works in a checkout and is missing from the wheel."""
    declared = {line.strip(' ",') for line in _list_in_pyproject("packages = [")}
    folders = {
        ".".join((package.name, *folder.relative_to(package).parts))
        for package in (LIBRARY, TRAINING)
        for folder in {file.parent for file in package.rglob("*.py")}
    }
    data = {"dbsam.models", "dbsam_training.recipes_files", "dbsam_training.registry_files"}
    assert folders | data == declared


def test_files_are_short_enough_to_be_read_in_one_go():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in [*library(), *training()]}
    assert not {str(file): length for file, length in lengths.items() if length > 350}


def _list_in_pyproject(start: str) -> list[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(start))
    return line.removeprefix(start).rstrip("]").split(",")
