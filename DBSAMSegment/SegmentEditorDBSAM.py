"""Hidden module that adds the DB-SAM effect to the Segment Editor."""

import os

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest


class SegmentEditorDBSAM(ScriptedLoadableModule):
    """Registers the effect when the application has started."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Segment Editor DB-SAM")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations"]
        self.parent.contributors = ["DB-SAM for 3D Slicer contributors"]
        self.parent.hidden = True
        self.parent.helpText = _("Adds the effect DB-SAM to the Segment Editor: segmentation from a box.")
        self.parent.acknowledgementText = _("See the module DB-SAM.")
        slicer.app.connect("startupCompleted()", self.registerEditorEffect)

    def registerEditorEffect(self):
        """Adds the effect to all Segment Editors."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        folder = os.path.join(os.path.dirname(__file__), "SegmentEditorDBSAMLib")
        scriptedEffect = effects.qSlicerSegmentEditorScriptedEffect(None)
        scriptedEffect.setPythonSource(os.path.join(folder, "SegmentEditorEffect.py").replace("\\", "/"))
        scriptedEffect.self().register()


class SegmentEditorDBSAMTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self-test and under pytest; needs no network's packages."""

    def setUp(self):
        """Starts from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Runs every test."""
        for name in sorted(vars(type(self))):
            if name.startswith("test_"):
                self.setUp()
                getattr(self, name)()

    def test_TheEffectIsRegistered(self):
        """The Segment Editor offers it."""
        names = [effect.name for effect in slicer.qSlicerSegmentEditorEffectFactory.instance().registeredEffects()]
        assert "DB-SAM" in names

    def test_ABoxOnASliceBecomesPartOfTheSegment(self):
        """The effect's whole way with a threshold in place of a network, and back by the editor's own undo."""
        from DBSAMSegmentLib.Effect.EffectSelfTest import checkBoxOnSlice

        checkBoxOnSlice()

    def test_ClicksCorrectWhatABoxGave(self):
        """Include and exclude, and back."""
        from DBSAMSegmentLib.Effect.EffectSelfTest import checkClicksOnSlice

        checkClicksOnSlice()
