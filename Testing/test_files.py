"""Files come to be whole or not at all, whatever ends the writer."""

import os
import subprocess
import sys

import pytest

from dbsam.io.files import atomic_path
from dbsam_training.store.locks import sole_use


def test_a_file_appears_whole_with_its_folder_and_its_endings_in_lower_case(tmp_path):
    target = tmp_path / "new" / "Case.NII.GZ"
    with atomic_path(target) as temporary:
        assert temporary.name == "case.nii.gz"
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["Case.NII.GZ"]


def test_a_failed_writing_leaves_the_former_file_and_nothing_else(tmp_path):
    target = tmp_path / "state.json"
    target.write_text("former")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert target.read_text() == "former"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "state.json"):
        pass
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_in_a_run_folder_goes_with_the_next_that_holds_it(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from dbsam.io.files import atomic_path\n"
        "from dbsam_training.store.locks import sole_use\n"
        "with sole_use(Path(sys.argv[1])), atomic_path(Path(sys.argv[1], 'last.pt')) as temporary:\n"
        "    temporary.write_bytes(bytes(1000)); os._exit(9)\n"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"former")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")]).returncode == 9
    assert [path for path in (tmp_path / "run").rglob("*") if path.stat().st_size == 1000]
    with sole_use(tmp_path / "run"):
        assert (tmp_path / "run" / "last.pt").read_bytes() == b"former"
        assert not [path for path in (tmp_path / "run").rglob("*") if path.stat().st_size == 1000]
