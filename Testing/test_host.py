"""The stand-in behaves as PythonQt does in Slicer 5.10: each rule that a module could break without noticing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

host = pytest.importorskip("host", reason="needs slicer-core and PySide6 (extra slicer-test)", exc_type=ImportError)
host.start()

import ctk  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
from host import event_loop, names  # noqa: E402
from host.pythonqt import HostType, NotInStandIn, host_class  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for path in (ROOT / "DBSAMSegment").rglob("*.py") if "dbsam" not in path.parts)
SOURCES += sorted((ROOT / "DBSAMTraining").glob("*.py"))
UI_FILES = sorted(ROOT.glob("DBSAM*/Resources/UI/*.ui"))


@pytest.fixture
def combo_box():
    box = qt.QComboBox()
    box.addItems(["first", "second"])
    return box


def test_a_property_is_read_and_written_as_an_attribute(combo_box):
    assert (combo_box.currentText, combo_box.currentIndex, combo_box.count) == ("first", 0, 2)
    combo_box.currentIndex = 1
    assert combo_box.currentText == "second"


@pytest.mark.parametrize("name", ["currentText", "currentIndex", "count", "width", "enabled", "toolTip"])
def test_a_property_that_is_called_raises_type_error(combo_box, name):
    with pytest.raises(TypeError, match="not callable"):
        getattr(combo_box, name)()


def test_plain_methods_are_called():
    text, check, label = qt.QPlainTextEdit(), qt.QCheckBox(), qt.QLabel("x")
    text.setPlainText("note")
    check.checked = True
    assert text.toPlainText() == "note"
    assert check.isChecked()
    assert not label.isVisible()
    assert label.layout() is None


def test_a_property_without_setter_is_not_written(combo_box):
    with pytest.raises(AttributeError, match="not writable"):
        combo_box.count = 3


@pytest.mark.parametrize("name", ["nope", "text", "setFrobnicated"])
def test_a_name_that_the_class_lacks_is_neither_read_nor_written(combo_box, name):
    with pytest.raises(AttributeError):
        getattr(combo_box, name)
    with pytest.raises(AttributeError):
        setattr(combo_box, name, 1)


def test_a_method_is_not_overwritten(combo_box):
    with pytest.raises(AttributeError, match="can not be overwritten"):
        combo_box.clear = None


def test_a_subclass_in_python_keeps_attributes_and_overrides_qt_methods():
    class Plot(qt.QWidget):
        def __init__(self):
            super().__init__()
            self.painted = 0

        def paintEvent(self, event):
            self.painted += 1

    plot = Plot()
    plot.grab()
    assert plot.painted == 1


def test_a_signal_connects_by_name_and_by_signature_and_disconnects():
    button, calls = qt.QPushButton("run"), []

    def clicked():
        calls.append("clicked")

    button.clicked.connect(clicked)
    button.connect("clicked()", clicked)
    button.click()
    assert calls == ["clicked", "clicked"]
    assert button.disconnect("clicked()", clicked)
    button.click()
    assert len(calls) == 3


def test_a_slot_gets_as_many_arguments_as_it_takes():
    spin_box, values = qt.QSpinBox(), []
    spin_box.connect("valueChanged(int)", lambda value: values.append(value))
    spin_box.connect("valueChanged(int)", lambda: values.append("no argument"))
    spin_box.value = 4
    assert values == [4, "no argument"]


@pytest.mark.parametrize("signature", ["clicked(int)", "pushed()", "currentTextChanged(QString)"])
def test_an_unknown_signal_is_refused(signature):
    with pytest.raises(ValueError, match="does not exist"):
        qt.QPushButton().connect(signature, print)


def test_a_signal_that_only_qt5_has_is_refused(combo_box):
    with pytest.raises(ValueError, match="Qt 5 only"):
        combo_box.connect("currentIndexChanged(QString)", print)


def test_an_overloaded_signal_needs_its_signature(combo_box):
    with pytest.raises(TypeError, match="overloaded"):
        combo_box.currentIndexChanged.connect(lambda index: None)
    combo_box.connect("currentIndexChanged(int)", lambda index: None)


def test_enums_are_flat():
    assert qt.Qt.AlignLeft
    assert qt.QMessageBox.Yes | qt.QMessageBox.No
    assert qt.QSizePolicy.Expanding
    for scoped in (lambda: qt.Qt.AlignmentFlag.AlignLeft, lambda: qt.QMessageBox.StandardButton.Yes):
        with pytest.raises(AttributeError):
            scoped()


@pytest.mark.parametrize("name", ["QThread", "QFutureWatcher", "QRegExp", "pyqtSignal"])
def test_a_class_that_slicer_or_qt6_lacks_is_refused(name):
    with pytest.raises(AttributeError):
        getattr(qt, name)


def test_signals_of_python_subclasses_work():
    class Worker(qt.QObject):
        done = qt.Signal(int)

    worker, values = Worker(), []
    worker.done.connect(values.append)
    worker.connect("done(int)", lambda value: values.append(-value))
    worker.done.emit(3)
    assert values == [3, -3]


@pytest.mark.parametrize("method", ["exec_", "exec"])
def test_a_dialog_runs_by_both_names(method):
    dialog = qt.QDialog()
    qt.QTimer.singleShot(0, dialog.accept)
    assert getattr(dialog, method)() == qt.QDialog.Accepted


def test_objects_that_qt_made_follow_the_same_rules():
    table = qt.QTableWidget(1, 2)
    header = table.horizontalHeader()
    header.stretchLastSection = True
    assert header.stretchLastSection is True
    assert header.count() == 2
    box = qt.QWidget()
    layout = qt.QVBoxLayout(box)
    layout.addWidget(table)
    assert table.parent() is box
    assert box.layout().spacing == layout.spacing


def test_isinstance_knows_the_qt_classes():
    button = qt.QPushButton()
    assert isinstance(button, qt.QWidget)
    assert isinstance(button, qt.QAbstractButton)
    assert not isinstance(button, qt.QLabel)
    assert isinstance(qt.QColor(1, 2, 3), qt.QColor)
    assert button.className() == "QPushButton"


def test_dynamic_properties_and_named_children_are_attributes():
    panel = qt.QWidget()
    child = qt.QLabel("hint", panel)
    child.objectName = "hintLabel"
    panel.setProperty("SlicerParameterName", "axis")
    assert panel.SlicerParameterName == "axis"
    assert panel.property("SlicerParameterName") == "axis"
    assert panel.hintLabel is child
    assert child.name == "hintLabel"
    assert panel.findChildren(qt.QLabel) == panel.findChildren("QLabel") == [child]


def test_methods_take_no_keyword_arguments(combo_box):
    with pytest.raises(TypeError, match="keyword"):
        combo_box.addItem(text="third")


def test_a_file_dialog_returns_the_name_alone(monkeypatch):
    original = qt.QFileDialog.getOpenFileName
    monkeypatch.setattr(original.__closure__[0], "cell_contents", lambda *args: ("/data/case.nrrd", "*.nrrd"))
    assert qt.QFileDialog.getOpenFileName(None, "Open", "/data", "*.nrrd") == "/data/case.nrrd"


def test_an_exception_in_a_slot_reaches_the_test():
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    with pytest.raises(ZeroDivisionError):
        host.process_events()


def test_a_timer_runs_while_events_are_processed():
    timer, ticks = qt.QTimer(), []
    timer.setInterval(1)
    timer.connect("timeout()", lambda: ticks.append(timer.active))
    timer.start()
    assert host.process_events(5.0, until=lambda: len(ticks) >= 3)
    timer.stop()
    assert ticks[0] is True
    assert timer.isActive() is False


def test_ctk_widgets_have_the_listed_properties_and_signals():
    button, states = ctk.ctkCollapsibleButton(), []
    child = qt.QLabel("inside", button)
    button.contentsCollapsed.connect(states.append)
    button.collapsed = True
    assert states == [True]
    assert button.checked is False
    assert child.isHidden()


def test_what_slicer_has_and_the_stand_in_lacks_says_so():
    with pytest.raises(NotInStandIn, match="exists in Slicer"):
        ctk.ctkPathLineEdit().retrieveHistory()
    with pytest.raises(NotInStandIn, match="exists in Slicer"):
        _ = ctk.ctkFileDialog


def test_a_stand_in_class_cannot_offer_more_than_slicer_has():
    namespace = {"_host_class": True, "_api": "ctk.ctkMenuButton", "openMenu": lambda self: None}
    with pytest.raises(AttributeError, match="openMenu"):
        HostType("ctkMenuButton", (host_class(type(qt.QPushButton()).__mro__[1]),), namespace)


def test_every_listed_widget_of_slicer_can_be_made():
    for name in sorted(names.api.listed_classes("slicer.")):
        if name not in ("qSlicerLayoutManager", "qSlicerModuleManager"):
            assert type(getattr(slicer, name)()).__name__ == name


def test_a_panel_is_drawn_to_a_picture(tmp_path):
    panel = qt.QWidget()
    qt.QFormLayout(panel).addRow("Opacity:", qt.QSlider())
    picture = qt.QImage(str(host.grab(panel, tmp_path / "panel.png", width=300)))
    assert picture.width() == 300
    assert picture.height() >= 20


UI = """<ui version="4.0"><class>Panel</class><widget class="qMRMLWidget" name="Panel">
<layout class="QFormLayout" name="rows"><item row="0" column="0">
<widget class="qMRMLNodeComboBox" name="volumeSelector">
<property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
<property name="noneEnabled"><bool>true</bool></property>
<property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item></layout></widget>
<connections><connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def test_a_ui_file_makes_slicers_widgets_with_their_properties_and_connections(tmp_path):
    (tmp_path / "panel.ui").write_text(UI)
    panel = slicer.util.loadUI(str(tmp_path / "panel.ui"))
    panel.setMRMLScene(slicer.mrmlScene)
    selector = slicer.util.childWidgetVariables(panel).volumeSelector
    assert isinstance(selector, slicer.qMRMLNodeComboBox)
    assert selector.mrmlScene() is slicer.mrmlScene
    assert selector.nodeTypes == ["vtkMRMLScalarVolumeNode"]
    assert selector.noneEnabled is True
    assert selector.property("SlicerParameterName") == "volume"
    assert names.problems_of_ui(tmp_path / "panel.ui") == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('class="qMRMLNodeComboBox"', 'class="qMRMLNodeSelector"'),
        ('name="noneEnabled"', 'name="noneAllowed"'),
        ("mrmlSceneChanged(vtkMRMLScene*)", "sceneChanged(vtkMRMLScene*)"),
        ("setMRMLScene(vtkMRMLScene*)", "setScene(vtkMRMLScene*)"),
    ],
)
def test_a_ui_file_with_a_name_that_slicer_lacks_is_found(tmp_path, right, wrong):
    (tmp_path / "panel.ui").write_text(UI.replace(right, wrong))
    assert names.problems_of_ui(tmp_path / "panel.ui")


def test_a_source_with_a_name_that_slicer_lacks_is_found(tmp_path):
    source = tmp_path / "source.py"
    source.write_text(
        "qt.QThread()\nctk.ctkSlider()\nslicer.qMRMLNodeSelector()\nslicer.util.pip_ensure()\n"
        "button.connect('clickd()', f)\nbutton.connect('clicked()', f)\nqt.QTimer.singleShot(0, f)\n"
    )
    assert [p.split(" ")[0] for p in names.problems_of_source(source)] == [f"source.py:{n}:" for n in (1, 2, 3, 4)]
    assert names.problems_of_signatures(source) == ["source.py:5: no class has a signal clickd()"]
    source.write_text("if hasattr(slicer.util, 'pip_ensure'):\n    slicer.util.pip_ensure()\n")
    assert names.problems_of_source(source) == []


@pytest.mark.parametrize("path", UI_FILES, ids=lambda path: path.name)
def test_the_ui_files_use_what_slicer_has(path):
    assert names.problems_of_ui(path) == []
    assert slicer.util.loadUI(str(path)).className() == "qMRMLWidget"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_modules_use_what_slicer_has(path):
    assert names.problems_of_source(path) + names.problems_of_signatures(path) == []


@pytest.mark.skipif(not event_loop.keeps_the_lock, reason="Qt's own function is called on Linux and macOS")
def test_a_python_thread_starves_while_the_event_loop_waits_as_in_slicer():
    counted, stopped = [0], threading.Event()

    def count():
        while not stopped.is_set():
            counted[0] += 1

    def work_during(wait):
        before = counted[0]
        wait()
        return counted[0] - before

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        with event_loop.waiting(1000) as wait:
            starved = work_during(wait)
        assert starved < 0.5 * work_during(lambda: time.sleep(1))
    finally:
        stopped.set()
        thread.join()
