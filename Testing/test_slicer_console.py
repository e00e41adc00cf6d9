"""The console API: wrong input in words, and what a batch writes."""

import sys

import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
from slicer_stage import SHAPE, block_mask, block_roi, block_volume, opened_module
from threshold_worker import ThresholdInWorker, ThresholdSettings


@pytest.fixture
def logic():
    """The module's logic with a rule in place of a network, in an empty scene."""
    settings = ThresholdSettings("slice", size=48)
    with opened_module(settings):
        made = sys.modules["DBSAMSegment"].DBSAMSegmentLogic(predictors=ThresholdInWorker(settings))
        yield made
        made.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"volume": None}, r"volumeNode is None: give a volume \(vtkMRMLScalarVolumeNode\)"),
        ({"volume": "ct.nrrd"}, r"volumeNode must be a volume \(vtkMRMLScalarVolumeNode\), not 'ct.nrrd'"),
        ({"volume": "roi"}, "volumeNode must be a volume"),
        ({"roi": None}, "roiNodes is None: give an ROI"),
        ({"roi": "volume"}, r"roiNodes must be an ROI .* not vtkMRMLScalarVolumeNode 'block'"),
        ({"roi": []}, "No ROI is selected"),
        ({"segmentation": None}, "segmentationNode is None: give a segmentation"),
        ({"segmentation": "volume"}, "segmentationNode must be a segmentation"),
        ({"segmentation": "removed"}, "is in no scene any more"),
    ],
)
def test_what_is_no_such_node_is_refused_in_words(logic, wrong, message):
    nodes = {"volume": block_volume(), "roi": block_roi()}
    nodes["segmentation"] = scenes.add_segmentation(slicer.mrmlScene, nodes["volume"])
    nodes["removed"] = scenes.add_segmentation(slicer.mrmlScene, nodes["volume"])
    slicer.mrmlScene.RemoveNode(nodes["removed"])
    given = {
        **nodes,
        **{key: nodes.get(value, value) if isinstance(value, str) else value for key, value in wrong.items()},
    }
    with pytest.raises(ValueError, match=message):
        logic.segment(given["volume"], given["roi"], given["segmentation"])


def test_a_sequence_without_browser_is_refused_in_words(logic):
    with pytest.raises(ValueError, match="browserNode is None: give a sequence browser"):
        logic.segmentSequence(block_volume(), block_roi(), None)
    with pytest.raises(ValueError, match="volumeNode is None"):
        logic.segmentSequence(None, block_roi(), None)


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "seg.nrrd", "nrrd"])
def test_a_batch_writes_what_the_ending_says(logic, tmp_path, ending):
    from DBSAMSegmentLib.Run.Batches import BatchCase

    from dbsam.io.images import read_labelmap

    volume, roi = block_volume(), block_roi()
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # Slicer's scene always has it
    before = scenes.node_names(slicer.mrmlScene)
    path = tmp_path / "out" / f"c.{ending}"
    [report] = logic.segmentBatch([BatchCase(volume, [roi], output=path)], intensity=(0.0, 1200.0))
    assert report.error == ""
    labels, _geometry = read_labelmap(path)
    assert labels.max() == 1
    assert abs(int((labels > 0).sum()) - int(block_mask().sum())) <= 0.1 * block_mask().sum()
    if "nrrd" not in ending:
        assert labels.shape == SHAPE
    assert sorted(scenes.node_names(slicer.mrmlScene)) == sorted(before)


def test_a_case_that_cannot_be_written_or_read_is_refused_before_it_is_computed(logic, tmp_path):
    from DBSAMSegmentLib.Run.Batches import BatchCase

    volume = block_volume()
    cases = [
        BatchCase(volume, [block_roi()], output=tmp_path / "c.png"),
        BatchCase(None, [block_roi()], name="nothing"),
        BatchCase(volume, None),
        BatchCase(volume, [volume]),
    ]
    reports = logic.segmentBatch(cases)
    assert "c.png can't be written, as its ending is none of .seg.nrrd" in reports[0].error
    assert "volume is None" in reports[1].error
    assert "No ROI is selected" in reports[2].error
    assert "roiNodes must be an ROI" in reports[3].error
    assert logic.runner.worker.predictors.predictor.encoded_slices == 0


def test_the_sample_data_is_registered_under_the_names_that_it_gets(logic):
    from pathlib import Path

    folder = Path(__file__).resolve().parents[1] / "Resources" / "Sample"
    for source in slicer.modules.sampleDataSources["DB-SAM"]:
        roi = slicer.util.loadMarkups(str(folder / source.fileNames[1]))
        assert roi.GetName() == source.nodeNames[1]
    host.process_events()
