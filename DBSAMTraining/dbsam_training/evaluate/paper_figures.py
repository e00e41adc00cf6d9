"""The figures that the DB-SAM paper prints (MICCAI 2024, arXiv 2410.04172, Tables 1 to 3), to stand beside one's own.

Every task also says which of one's own structures it may stand beside: those whose name and modality match the
patterns. The data are not the same, so only the order of magnitude can be compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PAPER_MODELS = ("SAM", "MedSAM", "DB-SAM")


@dataclass(frozen=True)
class PaperTask:
    """A row of Table 1 (3D) or 2 (2D): DSC and NSD in percent, in the order of `PAPER_MODELS`."""

    name: str
    modality: str
    dimension: int
    dsc: tuple[float, float, float]
    nsd: tuple[float, float, float]
    structure_pattern: str = ""
    modality_pattern: str = ""

    def stands_beside(self, structure: str, modality: str) -> bool:
        """Whether a structure of one's own data is the same task."""
        if not self.structure_pattern:
            return False
        return bool(re.fullmatch(self.structure_pattern, structure.lower())) and bool(
            re.fullmatch(self.modality_pattern, modality.lower())
        )


@dataclass(frozen=True)
class PaperAblation:
    """A row of Table 3, in percent."""

    name: str
    dsc_3d: float
    nsd_3d: float
    dsc_2d: float
    nsd_2d: float


MR = r"mr.*"
CT = r"ct.*"
US = r"(us|ultraso.*)"

TABLE_1 = (
    PaperTask(
        "Brain Ventricles", "MR-T1", 3, (41.96, 74.82, 78.95), (31.26, 78.17, 82.08), "(brain )?ventricles", "mr-t1"
    ),
    PaperTask(
        "Brain Ventricles", "MR-T2", 3, (39.56, 72.87, 77.02), (31.39, 75.01, 81.23), "(brain )?ventricles", "mr-t2"
    ),
    PaperTask("Brain Tumor", "MR-FLAIR", 3, (74, 89.15, 92.49), (38.27, 76.13, 85.77), "(brain )?tumou?r", "mr-flair"),
    PaperTask(
        "Cerebellum", "MR-T1", 3, (83.25, 93.31, 94.47), (44.55, 82.39, 88.32), "((left|right) )?cerebellum", "mr-t1"
    ),
    PaperTask(
        "Cerebellum", "MR-T2", 3, (81.88, 90.78, 92.69), (38.84, 70.01, 76.77), "((left|right) )?cerebellum", "mr-t2"
    ),
    PaperTask("Gallbladder", "MR", 3, (61.97, 77.78, 87.43), (36.34, 76.36, 84.57), "gall ?bladder", MR),
    PaperTask("Left Ventricle", "MR", 3, (68.44, 88.91, 91.15), (55.73, 91.05, 94.10), "left ventricle", MR),
    PaperTask("Right Ventricle", "MR", 3, (72.11, 85.92, 90.51), (68.98, 88.85, 94.97), "right ventricle", MR),
    PaperTask("Liver", "MR", 3, (80.38, 93.9, 96.17), (33, 80.13, 89.87), "liver", MR),
    PaperTask("Pancreas", "MR", 3, (51.11, 80.07, 85.16), (32.71, 79.42, 88.26), "pancreas", MR),
    PaperTask("Prostate", "MR-ADC", 3, (79.61, 92.25, 93.25), (60.12, 92.72, 94.13), "prostate", "mr-adc"),
    PaperTask("Prostate", "MR-T2", 3, (79.39, 92.18, 93.45), (57.6, 92, 94.32), "prostate", "mr-t2"),
    PaperTask("Abdomen Tumor", "CT", 3, (42.86, 65.54, 78.31), (34.49, 64.99, 79.62), "abdom.* tumou?r", CT),
    PaperTask("Gallbladder", "CT", 3, (47.28, 84.36, 90.12), (30.48, 87.07, 94.92), "gall ?bladder", CT),
    PaperTask("Head-Neck Tumor", "CT", 3, (23.87, 68.29, 76.14), (23.88, 47.36, 56.27), "head.*neck tumou?r", CT),
    PaperTask("Liver", "CT", 3, (74.21, 91.42, 96.21), (26.08, 76.3, 91.35), "liver", CT),
    PaperTask("Lung Infections", "CT", 3, (32.54, 60.01, 78.51), (25.84, 58.89, 78.98), "lung infections?", CT),
    PaperTask("Pancreas", "CT", 3, (43.53, 76.76, 83.8), (32.38, 81.09, 89.45), "pancreas", CT),
    PaperTask("Pleural Effusion", "CT", 3, (9.52, 59.46, 75.52), (11.19, 75.77, 90.96), "pleural effusion", CT),
    PaperTask("Stomach", "CT", 3, (68.95, 82.66, 92.54), (35.49, 70.93, 87.74), "stomach", CT),
    PaperTask("Head-Neck Tumor", "PET", 3, (72.45, 81.17, 84.12), (38.57, 62.76, 67.78), "head.*neck tumou?r", "pet.*"),
)
TABLE_1_AVERAGE = PaperTask("Average", "", 3, (58.52, 81.02, 87.05), (37.49, 76.54, 85.31))

TABLE_2 = (
    PaperTask(
        "Breast Tumor",
        "Ultrasound",
        2,
        (78.01, 85.42, 87.43),
        (82.48, 89.02, 92.30),
        "(benign|malignant|breast) tumou?r",
        US,
    ),
    PaperTask("Liver", "Ultrasound", 2, (67.81, 74.36, 81.10), (72.07, 79.07, 92.67), "liver", US),
    PaperTask("Vessel", "Ultrasound", 2, (57.6, 70.88, 72.15), (65.1, 78.41, 86.45), "vessels?", US),
    PaperTask("Heart", "X-Ray", 2, (79.28, 91.19, 95.35), (83.85, 94.1, 95.65), "heart|cardiomediastinum", "x-?ray"),
    PaperTask("Lungs", "X-Ray", 2, (72.24, 96.57, 97.60), (75.45, 98.56, 99.30), "((left|right) )?lungs?", "x-?ray"),
    PaperTask("Polyp", "Endoscope", 2, (81.6, 86.9, 92.13), (85.93, 90.91, 96.28), "polyps?", "endoscop.*"),
    PaperTask(
        "Instrument",
        "Endoscope",
        2,
        (76.61, 86.37, 91.89),
        (82.36, 90.93, 97.33),
        "(surgical )?(tool|instrument)s?",
        "endoscop.*",
    ),
    PaperTask(
        "Retinal Vessel",
        "Retinal Image",
        2,
        (0.75, 66.1, 67.53),
        (3.45, 84.4, 91.36),
        "(retinal )?vessels?",
        "fundus|retinal.*",
    ),
    PaperTask("Gland", "Pathology", 2, (22.63, 37.23, 52.79), (27.75, 43.09, 74.95), "glands?", "pathology|histology"),
)
TABLE_2_AVERAGE = PaperTask("Average", "", 2, (59.62, 77.22, 82.00), (64.27, 83.17, 91.81))

TABLE_3 = (
    PaperAblation("MedSAM", 81.02, 76.54, 77.22, 83.17),
    PaperAblation("+ channel attention", 85.25, 82.25, 78.26, 89.02),
    PaperAblation("+ bilateral cross-attention", 86.60, 85.01, 79.55, 90.06),
    PaperAblation("+ final fusion (DB-SAM)", 87.05, 85.31, 82.00, 91.81),
)


def paper_task_for(structure: str, modality: str, dimension: int) -> PaperTask | None:
    """The paper's task that a structure may stand beside, or None."""
    table = TABLE_1 if dimension == 3 else TABLE_2
    return next((task for task in table if task.stands_beside(structure, modality)), None)
