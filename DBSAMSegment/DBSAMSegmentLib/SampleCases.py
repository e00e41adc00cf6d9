"""The synthetic tutorial cases for the Sample Data module."""

from __future__ import annotations

from pathlib import Path

_ADDRESS = "https://github.com/SlicerDBSAM/SlicerDBSAM/raw/main/Resources/Sample/"

# (name, volume, its SHA-256, ROI, its SHA-256, its name, which Slicer takes from the file)
CASES = (
    (
        "DBSAMPhantomCT",
        "phantom_ct.nrrd",
        "044faab9291bac2e029095b95737ea20427a05b6cf3c7bad7e9971966140a6c0",
        "phantom_roi.mrk.json",
        "8fcf56d542fdc21b720c9064d6f4844d1e211c2c3e1c92ea8bd1c90c675c6bc0",
        "liver ROI",
    ),
    (
        "DBSAMPhantomMR",
        "phantom_mr.nrrd",
        "418d787459e797828539dfc0a3257349d5357e9e1ef061401c3bd59712662470",
        "phantom_mr_roi.mrk.json",
        "2b7dd7bcf5a8552eeae5b352b941c083574d6293a546f8491e18f4fb9107e7d9",
        "right kidney ROI",
    ),
    (
        "DBSAMPhantomUltrasound",
        "phantom_ultrasound.nrrd",
        "4390974fd13e4ed658288c8e31661ff46ed5a85e7e0ed151883d306a9f3b0dcd",
        "phantom_ultrasound_roi.mrk.json",
        "3feeefdcfde278b58e0671743c73a5c29fe72849295b3bc9af8422cd603cf87b",
        "lesion ROI",
    ),
)


def registerAll() -> None:
    """Registers the cases, each a volume with a box around a structure."""
    import SampleData

    icon = Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "DBSAMSegment.png"
    for name, volume, volumeDigest, roi, roiDigest, roiName in CASES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="DB-SAM",
            sampleName=name,
            thumbnailFileName=str(icon),
            uris=[_ADDRESS + volume, _ADDRESS + roi],
            fileNames=[volume, roi],
            nodeNames=[name, roiName],
            loadFileType=["VolumeFile", "MarkupsFile"],
            loadFiles=[True, True],
            checksums=[f"SHA256:{volumeDigest}", f"SHA256:{roiDigest}"],
        )
