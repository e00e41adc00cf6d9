"""The table of a batch: cases in rows, read as people and their spreadsheets write it.

A manifest is a text file of cells between commas, semicolons or tabs, whichever its first line has, with the names of
`COLUMNS` in that line, in any case. Relative paths are relative to the manifest. Lines that begin with # and columns
named `comment` or `note` are for people.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from dbsam.cli.case import Case
from dbsam.geometry.grid import AXIS_NAMES
from dbsam.inference.segmenter import SPREADS, STRATEGIES

COLUMNS = {
    "volume": "image file or DICOM folder (required)",
    "output": ".seg.nrrd or labelmap to write (required, each only once)",
    "roi": "ROI files, separated by semicolons",
    "box_ijk": "boxes of voxels: six numbers I0 J0 K0 I1 J1 K1, several boxes separated by semicolons",
    "box_mm": "boxes in mm RAS: six numbers R0 A0 S0 R1 A1 S1, several separated by semicolons",
    "box": "rectangles on a 2D image: four numbers X0 Y0 X1 Y1, several separated by semicolons",
    "box_from": "masks, separated by semicolons: a box round each label",
    "margin": "as --margin",
    "points": "point lists, separated by semicolons, as --points",
    "include": "as --include: three numbers X Y Z, several points separated by semicolons",
    "exclude": "as --exclude, likewise",
    "include_ijk": "as --include-ijk, likewise",
    "exclude_ijk": "as --exclude-ijk, likewise",
    "spread": "as --spread",
    "axis": "as --axis",
    "strategy": "as --strategy",
    "window": "as --window",
    "overlay": "picture to write",
    "series": "as --series",
    "stack": "as --stack",
    "component": "as --component",
    "slice_spacing": "as --slice-spacing",
    "comment": "for people; so is a column note",
}
"""Columns of a manifest; a row needs one of roi, box_ijk, box_mm, box and box_from; an empty cell means the default."""

_FOR_PEOPLE = ("comment", "comments", "note", "notes")
_Number = TypeVar("_Number", int, float)
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


class ManifestError(ValueError):
    """A manifest that cannot be understood; the message names the line and what is wrong with it."""


def read_manifest(path: Path, parse_window: Callable[[str], str | tuple[float, float]]) -> list[Case]:
    """Read a manifest.

    Args:
        path: The table, UTF-8.
        parse_window: Reads the column `window` as the command line reads `--window`; raises a ValueError.

    Raises:
        FileNotFoundError: There is no such file.
        ManifestError: It is no table in UTF-8, a column is unknown, missing or repeated, a cell cannot be read, or a
            row would write what another one writes or reads.
    """
    if path.is_dir():
        raise ManifestError(
            f"{path}: a folder, and a batch is a table: a text file with the line 'volume,roi,output' and below it a "
            "line for each case."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest.")
    cases: dict[int, Case] = {}
    for line, cells in _rows(path):
        try:
            cases[line] = _case(cells, path.parent, parse_window)
            cases[line].check_names()
        except ValueError as error:
            raise ManifestError(f"{path}, line {line}: {error}") from error
    if not cases:
        raise ManifestError(f"{path}: no cases below the header.")
    _check_apart(path, cases)
    return list(cases.values())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells of each row that is not empty."""
    try:
        # utf-8-sig: Excel writes a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            separator = _separator(file)
            file.seek(0)
            columns: list[str] = []
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells) or cells[0].startswith("#") or (not columns and cells[0].lower().startswith("sep=")):
                    continue
                if not columns:
                    columns = [_column(cell) for cell in cells]
                    _check_columns(path, columns)
                    continue
                yield reader.line_num, _named(cells, columns, f"{path}, line {reader.line_num}", separator)
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: not in UTF-8 ({error}). Save it as CSV in UTF-8 (in Excel: CSV UTF-8)."
        ) from error
    except csv.Error as error:
        raise ManifestError(
            f'{path}: no CSV file that can be read ({error}). Is a quotation mark (") left open, or it is not in UTF-8?'
        ) from error


def _separator(lines: Iterator[str]) -> str:
    """What stands between the cells: what Excel's line `sep=;` says, else what gives the header most known columns."""
    for line in lines:
        text = line.strip()
        if named := _names_separator(text):
            return named
        if text.strip(",;\t") and not text.startswith("#"):
            return max(_SEPARATORS, key=lambda separator: sum(_column(c) in COLUMNS for c in text.split(separator)))
    return ","


def _column(cell: str) -> str:
    """The name of a column as `COLUMNS` has it: "Box IJK" as box_ijk."""
    return re.sub(r"[\s-]+", "_", cell.strip(' "').lower())


def _names_separator(text: str) -> str:
    match = re.fullmatch(r'"?sep=(.)"?', text, re.IGNORECASE)
    return match[1] if match else ""


def _named(cells: Sequence[str], columns: Sequence[str], where: str, separator: str) -> dict[str, str]:
    """A row's cells by column; missing ones at its end are empty."""
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    beyond = [*(cell for cell, column in zip(padded, columns, strict=False) if not column), *padded[len(columns) :]]
    if any(beyond):
        held = _SEPARATORS.get(separator, separator)
        raise ManifestError(f"{where}: more cells than columns; quote cells that hold {held}.")
    named = {column: cell for cell, column in zip(padded, columns, strict=False) if column not in ("", *_FOR_PEOPLE)}
    if broken := [column for column, cell in named.items() if "\n" in cell or "\r" in cell]:
        raise ManifestError(f'{where}: the cell {broken[0]} spans several lines: is a quotation mark (") left open?')
    return named


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if unknown := [column for column in columns if column not in ("", *COLUMNS, *_FOR_PEOPLE)]:
        raise ManifestError(f"{path}: unknown columns {', '.join(unknown)}; there are {', '.join(COLUMNS)}.")
    if missing := [column for column in ("volume", "output") if column not in columns]:
        raise ManifestError(f"{path}: no column {' and no column '.join(missing)} in its first line.")
    if repeated := [column for column in COLUMNS if columns.count(column) > 1 and column not in _FOR_PEOPLE]:
        raise ManifestError(f"{path}: the column {repeated[0]} is there more than once; keep one.")


def _check_apart(path: Path, cases: Mapping[int, Case]) -> None:
    """Refuse rows that would overwrite what another one writes or reads, by whatever path they name it.

    Paths that differ in case alone count as one, which they are on most disks of Windows and macOS.
    """
    from dbsam.io.images import input_files

    read = {_place(file): line for line, case in cases.items() for path in case.inputs for file in input_files(path)}
    written: dict[str, int] = {}
    for line, case in cases.items():
        for output in filter(None, (case.output, case.overlay)):
            place = _place(output)
            if place in written:
                raise ManifestError(f"{path}, line {line}: {output} is already written by line {written[place]}.")
            if place in read:
                raise ManifestError(f"{path}, line {line}: {output} would overwrite an input of line {read[place]}.")
            written[place] = line


def parse_stack(text: str) -> int:
    """A number of a stack, from 1.

    Raises:
        ValueError: It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is no number of a stack: 1 or more.")
    return int(text)


def parse_component(text: str) -> int | Literal["rgb"]:
    """A number of a component, from 1, or "rgb".

    Raises:
        ValueError: It is neither.
    """
    if text.lower() == "rgb":
        return "rgb"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is neither rgb nor the number of a component: 1 or more.")
    return int(text)


def parse_spacing(text: str) -> float:
    """A distance in mm.

    Raises:
        ValueError: It is no positive number.
    """
    try:
        spacing = float(text)
    except ValueError:
        spacing = math.nan
    if not 0 < spacing < math.inf:
        raise ValueError(f"{text!r} is no distance: a number of mm above 0.")
    return spacing


def _place(file: Path) -> str:
    return str(file.resolve()).casefold()


def _case(cells: dict[str, str], folder: Path, parse_window: Callable[[str], str | tuple[float, float]]) -> Case:
    for column in ("volume", "output"):
        if not cells[column]:
            raise ValueError(f"column {column} is empty.")
    axis, strategy = cells.get("axis") or "auto", (cells.get("strategy") or "track").lower()
    if axis.lower() not in AXIS_NAMES:
        raise ValueError(f"axis {axis!r} is none of {', '.join(AXIS_NAMES)}.")
    spread = cells.get("spread") or "both"
    if spread not in SPREADS:
        raise ValueError(f"spread {spread!r} is none of {', '.join(SPREADS)}.")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is none of {', '.join(STRATEGIES)}.")
    return Case(
        volume=folder / cells["volume"],
        output=folder / cells["output"],
        roi_files=tuple(folder / name for name in _split(cells.get("roi", ""))),
        boxes_ijk=tuple(_numbers(text, 6, "box_ijk", int) for text in _split(cells.get("box_ijk", ""))),
        boxes_xyxy=tuple(_numbers(text, 4, "box", int) for text in _split(cells.get("box", ""))),
        boxes_mm=tuple(_numbers(text, 6, "box_mm", float) for text in _split(cells.get("box_mm", ""))),
        mask_files=tuple(folder / name for name in _split(cells.get("box_from", ""))),
        margin_mm=_numbers(cells.get("margin") or "0", 1, "margin", float)[0],
        point_files=tuple(folder / name for name in _split(cells.get("points", ""))),
        **{
            column: tuple(_numbers(text, 3, column, float) for text in _split(cells.get(column, "")))
            for column in ("include", "exclude", "include_ijk", "exclude_ijk")
        },
        spread=spread,
        axis=axis,
        strategy=strategy,
        intensity=parse_window(cells.get("window") or "auto"),
        overlay=folder / cells["overlay"] if cells.get("overlay") else None,
        series_uid=cells.get("series") or None,
        stack=parse_stack(cells["stack"]) if cells.get("stack") else None,
        component=parse_component(cells["component"]) if cells.get("component") else None,
        slice_spacing_mm=parse_spacing(cells["slice_spacing"]) if cells.get("slice_spacing") else None,
    )


def _split(cell: str) -> Iterator[str]:
    return (part.strip() for part in cell.split(";") if part.strip())


def _numbers(text: str, count: int, column: str, kind: type[_Number]) -> tuple[_Number, ...]:
    try:
        numbers = tuple(kind(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"column {column} needs {count} {what}, not {text!r}.")
    return numbers
