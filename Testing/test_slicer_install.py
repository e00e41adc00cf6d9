"""What is installed: the CMake lists against the folder, and everything run from one flat folder as in Slicer."""

import ast
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE_FOLDERS = [folder for folder in ("DBSAMSegment", "DBSAMTraining") if (ROOT / folder / "CMakeLists.txt").exists()]
# For people and pip only. Under these names they would meet other extensions' files in Slicer's one resource folder.
NOT_INSTALLED = {"README.md", "Resources/Models/README.md"}


def cmake_list(folder, name):
    text = (ROOT / folder / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(rf"set\({name}\s(.*?)\)", text, re.DOTALL)
    return [line.split("#")[0].strip() for line in found.group(1).splitlines() if line.split("#")[0].strip()]


def is_source(path):
    hidden = any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    return not hidden and "__pycache__" not in path.parts and path.is_file()


@pytest.mark.parametrize("folder", MODULE_FOLDERS)
def test_every_script_is_listed_once_and_exists(folder):
    base = ROOT / folder
    scripts = {
        path.relative_to(base).as_posix()
        for path in base.rglob("*.py")
        if is_source(path) and "Resources" not in path.relative_to(base).parts
    }
    listed = cmake_list(folder, "MODULE_PYTHON_SCRIPTS")
    assert sorted(listed) == sorted(scripts)


@pytest.mark.parametrize("folder", MODULE_FOLDERS)
def test_every_resource_is_listed_once_and_exists(folder):
    base = ROOT / folder
    resources = {
        path.relative_to(base).as_posix()
        for path in base.rglob("*")
        if is_source(path)
        and path.name != "CMakeLists.txt"
        and (path.suffix != ".py" or "Resources" in path.relative_to(base).parts)
    }
    assert sorted(cmake_list(folder, "MODULE_PYTHON_RESOURCES")) == sorted(resources - NOT_INSTALLED)


def test_only_modules_lie_at_the_top_of_a_module_folder():
    assert {path.name for path in (ROOT / "DBSAMSegment").glob("*.py")} == {"DBSAMSegment.py", "SegmentEditorDBSAM.py"}


@pytest.mark.parametrize("name", ["DBSAMSegment.py", "SegmentEditorDBSAM.py"])
def test_module_files_import_nothing_heavy_at_file_scope(name):
    tree = ast.parse((ROOT / "DBSAMSegment" / name).read_text(encoding="utf-8"))
    allowed = set(sys.stdlib_module_names) | {"slicer", "vtk", "qt", "ctk", "numpy"}
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        assert {name.split(".")[0] for name in names} <= allowed


def test_the_root_cmake_file_names_all_modules_and_the_catalog_entry_is_valid():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(DBSAM)" in text
    for folder in MODULE_FOLDERS:
        assert f"add_subdirectory({folder})" in text
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{name} ".+"\)$', text, re.MULTILINE), name
    catalog = json.loads((ROOT / "DBSAM.json").read_text(encoding="utf-8"))
    assert catalog["category"] == "Segmentation"
    assert catalog["build_dependencies"] == ["PyTorch"]
    assert catalog["scm_url"].endswith("SlicerDBSAM.git")
    assert (ROOT / "LICENSE.txt").exists()


def test_the_requirements_of_the_panel_are_the_dependencies_that_slicer_lacks():
    pytest.importorskip("slicer")
    host = pytest.importorskip("host", reason="needs slicer-core and PySide6")
    host.start()
    sys.path.insert(0, str(ROOT / "DBSAMSegment"))
    from DBSAMSegmentLib.Run.Requirements import REQUIREMENTS

    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\ndependencies = [")[1].split("]")[0]
    kept = {"numpy", "SimpleITK", "scipy", "requests", "filelock"}  # Slicer's own, and what comes with torch
    kept |= {"nibabel", "Pillow", "pydicom", "python-gdcm", "highdicom"}  # read files, where Slicer has its scene
    wanted = {line for line in re.findall(r'"(.+)"', listed) if line.split(">=")[0] not in kept}
    assert wanted == set(REQUIREMENTS.values())


def test_what_a_training_in_slicer_needs_is_of_the_extra_for_training():
    pytest.importorskip("slicer")
    host = pytest.importorskip("host", reason="needs slicer-core and PySide6")
    host.start()
    from DBSAMSegmentLib.Run.Requirements import TRAINING_REQUIREMENTS

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = [text.split(start)[1].split("]")[0] for start in ("\ndependencies = [", "train = [")]
    assert set(TRAINING_REQUIREMENTS.values()) <= set(re.findall(r'"(.+)"', "".join(lists)))


def test_icons_have_the_sizes_slicer_asks_for():
    def size(path):
        data = path.read_bytes()
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")

    assert size(ROOT / "Resources" / "DBSAM.png") == (128, 128)
    assert (ROOT / "DBSAMSegment" / "Resources" / "Icons" / "DBSAMSegment.png").exists()


def test_modules_and_self_tests_run_from_one_flat_folder_without_the_checkout(tmp_path):
    """Copies what CMake lists into `qt-scripted-modules` and runs from there, without the checkout on the path."""
    pytest.importorskip("slicer")
    pytest.importorskip("host", reason="needs slicer-core and PySide6")
    installed = tmp_path / "qt-scripted-modules"
    for name in cmake_list("DBSAMSegment", "MODULE_PYTHON_SCRIPTS") + cmake_list(
        "DBSAMSegment", "MODULE_PYTHON_RESOURCES"
    ):
        target = installed / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "DBSAMSegment" / name, target)
    shutil.copytree(ROOT / "Testing" / "host", tmp_path / "stand-in" / "host")
    code = f"""
        import sys
        from pathlib import Path
        checkout = {str(ROOT)!r}
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        sys.path = [{str(tmp_path / "stand-in")!r}, {str(installed)!r}] + [
            p for p in sys.path if checkout not in p or "site-packages" in p
        ]
        import host
        host.start()
        installed = Path({str(installed)!r})
        for name in ("SegmentEditorDBSAM", "DBSAMSegment"):
            host.MODULES[name] = installed / (name + ".py")
            host.load_module(host.MODULES[name])
        host.complete_startup()
        host.open_module("DBSAMSegment")
        sys.modules["DBSAMSegment"].DBSAMSegmentTest().runTest()
        sys.modules["SegmentEditorDBSAM"].SegmentEditorDBSAMTest().runTest()
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] in ("dbsam", "DBSAMSegmentLib", "SegmentEditorDBSAMLib", "DBSAMSegment"):
                assert str(installed) in str(module.__file__), (name, module.__file__)
        host.close_module("DBSAMSegment")
        print("done")
    """
    environment = {
        "PATH": "/usr/bin:/bin",
        "QT_QPA_PLATFORM": "offscreen",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip().endswith("done")
