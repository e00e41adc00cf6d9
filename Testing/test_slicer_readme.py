"""What docs/slicer.md tells a user of Slicer to type in the console does what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
from threshold_worker import ThresholdInWorker

from dbsam.weights.load import find_weights

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "Resources" / "Sample"
SECTION = (ROOT / "docs/slicer.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)


@pytest.fixture
def console(tmp_path, monkeypatch):
    """The console's names, with the reader's nodes in the scene and files in the working folder."""
    host.start()
    host.new_scene()
    host.open_module("DBSAMSegment")
    from DBSAMSegmentLib.Run.Runner import acquireRunner, releaseRunner

    runner = acquireRunner()
    if find_weights("compact") is None:
        runner.worker.predictors = ThresholdInWorker()
    shutil.copy(SAMPLE / "phantom_ct.nrrd", tmp_path / "ct.nrrd")
    for name in ("liver", "kidney"):
        shutil.copy(SAMPLE / "phantom_roi.mrk.json", tmp_path / f"{name}.mrk.json")
    monkeypatch.chdir(tmp_path)
    slicer.util.loadMarkups(str(tmp_path / "liver.mrk.json")).SetName("liver")
    yield {"slicer": slicer}
    # The examples' logics live as long as Slicer does; here the application goes on with other tests.
    releaseRunner()
    host.close_module("DBSAMSegment")
    runner.close()
    import DBSAMSegmentLib.Run.Runner as shared

    shared._shared, shared._users = None, 0
    host.new_scene()


def test_there_are_three_examples_of_three_lines():
    assert [sum(bool(line) for line in block.splitlines()) for block in BLOCKS] == [3, 3, 3]


def test_the_console_examples_run_as_they_stand(console, tmp_path):
    slicer.util.loadVolume(str(tmp_path / "ct.nrrd")).SetName("ct")
    slicer.mrmlScene.SetRootDirectory(str(tmp_path / "elsewhere"))
    exec(BLOCKS[0], console)
    (segment,) = console["report"].segments
    assert segment.name == "liver"
    assert console["segmentationNode"].GetSegmentation().GetNumberOfSegments() == 1
    exec(BLOCKS[1], console)
    (report,) = console["reports"]
    assert report.error == ""
    assert (tmp_path / "out" / "ct.seg.nrrd").is_file()


def test_the_sequence_example_runs_as_it_stands(console, tmp_path):
    frame = slicer.util.loadVolume(str(tmp_path / "ct.nrrd"))
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine frames")
    for number in range(3):
        sequence.SetDataNodeAtValue(frame, str(number))
    slicer.mrmlScene.RemoveNode(frame)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    browser.GetProxyNode(sequence).SetName("cine")
    exec(BLOCKS[0].splitlines()[0], console)
    exec(BLOCKS[2], console)
    assert [report.frame for report in console["reports"]] == [0, 2]
    output = console["sequenceNode"]
    assert output.GetNumberOfDataNodes() == 3
    segmentation = output.GetNthDataNode(0)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert scenes.segment_array(segmentation, segmentation.GetSegmentation().GetNthSegmentID(0), (200, 512, 512)).any()
