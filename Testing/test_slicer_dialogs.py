"""Errors and questions: what stands after an error runs, and Return in a question answers no."""

import ast
from pathlib import Path

import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer

host.start()

import qt  # noqa: E402
from DBSAMSegmentLib.Panel.Dialogs import confirmed, errorsShown  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def test_after_an_error_that_was_shown_the_next_line_runs(monkeypatch):
    shown = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: shown.append((text, options)))
    after = False
    with errorsShown("The result could not be written.", waitCursor=True):
        raise OSError("the disk is full")
    after = True
    assert after
    [(text, options)] = shown
    assert text == "The result could not be written.\n\nthe disk is full"
    assert "OSError" in options["detailedText"]
    assert slicer.app.overrideCursor() is None


def test_what_ends_the_application_is_not_taken_for_an_error():
    with pytest.raises(KeyboardInterrupt), errorsShown("no matter"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("button", "expected"), [("Return", False), ("Ok", True), ("Cancel", False)])
def test_return_in_a_question_answers_no(monkeypatch, button, expected):
    monkeypatch.setattr(slicer.app, "_testing", False)

    def answer():
        box = slicer.app.activeModalWidget()
        default = box.defaultButton() if button == "Return" else box.button(getattr(qt.QMessageBox, button))
        default.click()

    qt.QTimer.singleShot(0, answer)
    assert confirmed("Fetch 3 GB?") is expected


def test_slicers_context_that_raises_again_is_used_nowhere():
    sources = [path for folder in ("DBSAMSegment", "DBSAMTraining") for path in (ROOT / folder).rglob("*.py")]
    used = [
        (path.name, node.lineno)
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("tryWithErrorDisplay", "confirmOkCancelDisplay")
    ]
    assert [name for name, _ in used] == ["Dialogs.py"]  # the question under --testing
