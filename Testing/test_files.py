"""Files come to be whole or not at all, whatever ends the writer."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dbsam.io.files import atomic_path, check_place
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


KILLED = "import os, sys; from dbsam.io.files import atomic_path\n" \
    "with atomic_path(sys.argv[1]) as temporary:\n    temporary.write_bytes(bytes(1000)); os._exit(9)\n"  # fmt: skip


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path):
    target = tmp_path / "mask.nrrd"
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)]).returncode == 9
    assert len(os.listdir(tmp_path)) == 2, "a folder and its lock"
    with atomic_path(tmp_path / "other.nrrd") as living:
        living.write_bytes(b"other")
        of_the_living = [living.parent.name, f"{living.parent.name}.lock"]
        assert sorted(os.listdir(tmp_path)) == of_the_living
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"new")
        assert living.read_bytes() == b"other"
    assert sorted(os.listdir(tmp_path)) == ["mask.nrrd", "other.nrrd"]


def test_one_that_was_killed_before_it_began_is_removed_too(tmp_path):
    (tmp_path / ".dbsam-empty").mkdir()
    with atomic_path(tmp_path / "mask.nrrd") as temporary:
        temporary.write_bytes(b"new")
    assert os.listdir(tmp_path) == ["mask.nrrd"]


def test_writers_of_one_folder_do_not_take_each_other_for_dead(tmp_path):
    def write(number: int) -> None:
        for _ in range(40):
            with atomic_path(tmp_path / f"{number}.txt") as temporary:
                temporary.write_text(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{n}.txt": str(n) for n in range(8)}


def test_an_output_that_is_a_symbolic_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    real, link, dangling = tmp_path / "disk" / "Real.nrrd", tmp_path / "mask.nrrd", tmp_path / "new.nrrd"
    real.write_bytes(b"former")
    link.symlink_to(real)
    dangling.symlink_to(tmp_path / "disk" / "later" / "new.nrrd")
    for path in (link, dangling):
        check_place(path)
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"whole")
        assert path.is_symlink()
        assert path.resolve().read_bytes() == b"whole"
    assert sorted(os.listdir(tmp_path / "disk")) == ["Real.nrrd", "later"]


def test_a_link_that_leads_nowhere_is_refused_before_the_work(tmp_path):
    loop, below = tmp_path / "loop.nrrd", tmp_path / "below.nrrd"
    loop.symlink_to(loop)
    (tmp_path / "file").write_text("no folder")
    below.symlink_to(tmp_path / "file" / "mask.nrrd")
    with pytest.raises(OSError, match=r"loop\.nrrd: a symbolic link that leads to itself"):
        check_place(loop)
    with pytest.raises(NotADirectoryError, match=r"below\.nrrd: .*file is a file and can hold no other"):
        check_place(below)
