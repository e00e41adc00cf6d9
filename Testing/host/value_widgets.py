"""Stand-ins for CTK's sliders and ranges: one or two double spin boxes with CTK's properties and signals."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from PySide6 import QtWidgets

from host.pythonqt import host_class
from host.qt_module import qt
from host.signals import emit

Widget: Any = host_class(QtWidgets.QWidget)


class _Scaled(Widget):
    """What the widgets around one or two double spin boxes share."""

    def _forward(self, name: str, value: Any) -> None:
        for spin_box in self._spin_boxes:
            setattr(spin_box, name, value)


def _forwarded(*names: str) -> dict[str, Any]:
    """Getter and setter of properties that live in the inner spin boxes."""
    made: dict[str, Any] = {}
    for name in names:
        made[f"_get_{name}"] = lambda self, name=name: getattr(self._spin_boxes[0], name)
        made[f"_set_{name}"] = lambda self, value, name=name: self._forward(name, value)
    return made


_SPIN_PROPERTIES = ("decimals", "prefix", "suffix", "singleStep")


class ctkSliderWidget(_Scaled):
    """A slider and a spin box that hold the same value."""

    _host_class, _api = True, "ctk.ctkSliderWidget"
    _defaults: ClassVar = {"spinBoxVisible": True, "tracking": True, "pageStep": 10.0}
    locals().update(_forwarded(*_SPIN_PROPERTIES))

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider, self._spin_box = qt.QSlider(qt.Qt.Horizontal), qt.QDoubleSpinBox()
        self._spin_boxes = [self._spin_box]
        self._spin_box.maximum = 100.0
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin_box)
        self._slider.connect("valueChanged(int)", self._slider_moved)
        self._spin_box.connect("valueChanged(double)", self._value_changed)
        self._rescale()

    def _rescale(self) -> None:
        steps = (self._spin_box.maximum - self._spin_box.minimum) / (self._spin_box.singleStep or 1.0)
        self._slider.blockSignals(True)
        self._slider.setRange(0, max(1, math.ceil(steps)) if math.isfinite(steps) else 1)
        self._slider.value = round((self._spin_box.value - self._spin_box.minimum) / (self._spin_box.singleStep or 1.0))
        self._slider.blockSignals(False)

    def _slider_moved(self, position: int) -> None:
        self._spin_box.value = self._spin_box.minimum + position * self._spin_box.singleStep

    def _value_changed(self, value: float) -> None:
        self._rescale()
        emit(self, "valueIsChanging(double)", value)
        emit(self, "valueChanged(double)", value)

    def _get_value(self) -> float:
        return self._spin_box.value

    def _set_value(self, value: float) -> None:
        self._spin_box.value = value

    def _get_minimum(self) -> float:
        return self._spin_box.minimum

    def _set_minimum(self, value: float) -> None:
        self._spin_box.minimum = value
        self._rescale()

    def _get_maximum(self) -> float:
        return self._spin_box.maximum

    def _set_maximum(self, value: float) -> None:
        self._spin_box.maximum = value
        self._rescale()

    def setValue(self, value: float) -> None:
        self._spin_box.value = value

    def setDecimals(self, decimals: int) -> None:
        self._spin_box.decimals = decimals


class ctkRangeWidget(_Scaled):
    """Two spin boxes, one for each end of a range."""

    _host_class, _api = True, "ctk.ctkRangeWidget"
    _defaults: ClassVar = {"tracking": True}
    locals().update(_forwarded(*_SPIN_PROPERTIES, "minimum", "maximum"))

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._low, self._high = qt.QDoubleSpinBox(), qt.QDoubleSpinBox()
        self._spin_boxes = [self._low, self._high]
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for spin_box, end in ((self._low, "minimum"), (self._high, "maximum")):
            layout.addWidget(spin_box)
            spin_box.connect("valueChanged(double)", lambda value, end=end: self._value_changed(value, end))
        self._high.value = 99.0

    def _value_changed(self, value: float, end: str) -> None:
        if self._low.value > self._high.value:
            (self._high if end == "minimum" else self._low).value = value
        emit(self, f"{end}ValueChanged(double)", value)
        emit(self, "valuesChanged(double,double)", self._low.value, self._high.value)

    def _get_minimumValue(self) -> float:
        return self._low.value

    def _set_minimumValue(self, value: float) -> None:
        self._low.value = value

    def _get_maximumValue(self) -> float:
        return self._high.value

    def _set_maximumValue(self, value: float) -> None:
        self._high.value = value

    def setMinimumValue(self, value: float) -> None:
        self._low.value = value

    def setMaximumValue(self, value: float) -> None:
        self._high.value = value

    def setRange(self, minimum: float, maximum: float) -> None:
        self._forward("minimum", minimum)
        self._forward("maximum", maximum)

    def setValues(self, minimum: float, maximum: float) -> None:
        self._high.value, self._low.value = maximum, minimum
