from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import (
    assert_is_the_pear_in_the_box,
    centred_grid,
    pear_volume,
    rotated_box,
    segmenter,
    stack_of_squares,
    whole_box,
)
from threshold_predictor import ThresholdPredictor

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.eta import SliceCost
from dbsam.inference.segmenter import SliceReport, VolumeSegmentation, VolumeSegmenter
from dbsam.preprocess.volume import Volume
from dbsam.progress import Cancelled, CancelToken, Progress


def test_the_next_prompt_on_the_same_slices_needs_no_encoder() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    predictor = ThresholdPredictor()
    engine = VolumeSegmenter(predictor, nearby=True)
    first = engine.segment(volume, OrientedBox.from_ijk((7, 7, 2), (23, 23, 9), volume.geometry), axis=2)
    encoded = predictor.encoded_slices
    second = engine.segment(volume, OrientedBox.from_ijk((8, 7, 2), (22, 24, 9), volume.geometry), axis=2)
    assert (first.cache_hits, second.cache_hits) == (0, 8)
    assert predictor.encoded_slices == encoded == 8
    engine.segment(volume, OrientedBox.from_ijk((0, 0, 2), (39, 39, 9), volume.geometry), axis=2)
    assert predictor.encoded_slices > encoded  # the former regions don't hold this box


@pytest.mark.parametrize("strategy", ["box", "track"])
def test_an_answer_does_not_depend_on_what_was_asked_before(strategy: str) -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    wide, box = (
        OrientedBox.from_ijk((low, low, 2), (high, high, 9), volume.geometry) for low, high in ((2, 30), (7, 23))
    )
    engine, predictor = segmenter(), ThresholdPredictor()
    engine.segment(volume, wide, axis=2, strategy=strategy)
    after = engine.segment(volume, box, axis=2, strategy=strategy)
    alone = segmenter(predictor).segment(volume, box, axis=2, strategy=strategy)
    assert after.cache_hits == 0
    again = engine.segment(volume, box, axis=2, strategy=strategy)
    assert again.cache_hits == len(again.slices)
    np.testing.assert_array_equal(again.mask_KJI, alone.mask_KJI)


def test_volumes_that_differ_in_spacing_alone_share_nothing() -> None:
    voxels = stack_of_squares({3: (10, 10, 20, 20)}).voxels
    one, other = (
        Volume(voxels, ImageGeometry.from_spacing(spacing, (40, 40, 12))) for spacing in ((1, 1, 3), (1, 2, 6))
    )
    assert one.identity != other.identity
    assert one.identity == Volume(voxels.copy(), one.geometry).identity


def test_the_memory_limit_of_the_cache_holds_at_any_time_and_changes_no_result() -> None:
    volume = pear_volume(centred_grid(np.eye(3), (1, 1, 2.5), (50, 46, 18)))
    box = rotated_box(np.eye(3), (18.0, 16.0, 16.0))
    cache = EmbeddingCache(3 * 128 * 128 * 3 * 4)  # three embeddings of the stand-in
    predictor = ThresholdPredictor()
    sizes = []
    predictor.before_encode = lambda: sizes.append(cache.nbytes)
    for strategy in ("box", "track"):
        limited = segmenter(predictor, cache).segment(volume, box, strategy=strategy)
        unlimited = segmenter().segment(volume, box, strategy=strategy)
        assert np.array_equal(limited.mask_KJI, unlimited.mask_KJI)
    assert 0 < max(sizes) <= cache.max_bytes
    assert segmenter(predictor, EmbeddingCache(0)).segment(volume, box).slices == unlimited.slices


@pytest.mark.parametrize("strategy", ["box", "track"])
def test_a_cancelled_run_leaves_a_cache_from_which_the_next_run_goes_on(strategy: str) -> None:
    volume = pear_volume(centred_grid(np.eye(3), (1, 1, 1.5), (50, 46, 30)))
    box = rotated_box(np.eye(3), (18.0, 16.0, 16.0))
    predictor = ThresholdPredictor()
    undisturbed = segmenter().segment(volume, box, strategy=strategy)
    engine, cancel, seen = segmenter(predictor), CancelToken(), []

    def cancel_at_fifth(report: SliceReport, mask: NDArray[np.uint8]) -> None:
        seen.append(report.index)
        if len(seen) == 5:
            cancel.cancel()

    with pytest.raises(Cancelled):
        engine.segment(volume, box, strategy=strategy, cancel=cancel, on_slice=cancel_at_fifth)
    assert len(seen) == 5  # no further slice after the cancellation
    again = engine.segment(volume, box, strategy=strategy)
    assert np.array_equal(again.mask_KJI, undisturbed.mask_KJI)
    assert again.slices == undisturbed.slices
    assert again.cache_hits >= 5
    assert predictor.encoded_slices == len(engine.cache)  # none was encoded twice


def test_cancelling_while_a_slice_is_encoded_ends_the_run_and_keeps_that_slice() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    predictor, cancel = ThresholdPredictor(), CancelToken()
    engine = segmenter(predictor)
    predictor.before_encode = cancel.cancel
    with pytest.raises(Cancelled):
        engine.segment(volume, whole_box(volume), axis=2, cancel=cancel)
    assert predictor.encoded_slices == len(engine.cache) == 1


def test_a_token_cancelled_beforehand_lets_nothing_start() -> None:
    volume = stack_of_squares({5: (10, 10, 20, 20)})
    predictor, cancel = ThresholdPredictor(), CancelToken()
    cancel.cancel()
    for work in (segmenter(predictor).segment, segmenter(predictor).prefetch):
        with pytest.raises(Cancelled):
            work(volume, whole_box(volume), cancel=cancel)
    assert predictor.encoded_slices == 0


@pytest.mark.parametrize("strategy", ["box", "track"])
def test_progress_counts_up_to_all_slices_and_ends_with_no_time_left(strategy: str) -> None:
    volume = stack_of_squares(dict.fromkeys(range(3, 8), (10, 10, 20, 20)), slices=20)
    steps: list[Progress] = []
    box = OrientedBox.from_ijk((5, 5, 1), (30, 30, 16), volume.geometry)
    segmenter().segment(volume, box, axis=2, strategy=strategy, start_slice=5, progress=steps.append)
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert (done[-1], steps[-1].total, steps[-1].seconds_left) == (16, 16, 0)
    assert all(step.seconds_left is not None and step.seconds_left > 0 for step in steps[:-1])


@pytest.mark.parametrize("strategy", ["box", "track"])
def test_slices_are_shown_as_they_are_decided_and_add_up_to_the_result(strategy: str) -> None:
    volume = stack_of_squares(dict.fromkeys(range(3, 9), (10, 10, 20, 20)))
    shown: dict[int, NDArray[np.uint8]] = {}

    def show(report: SliceReport, mask: NDArray[np.uint8]) -> None:
        assert report.area_pixels == mask.sum()
        shown[report.index] = mask

    box = OrientedBox.from_ijk((5, 5, 1), (30, 30, 11), volume.geometry)
    result = segmenter().segment(volume, box, axis=2, strategy=strategy, on_slice=show)
    labelmap = result.labelmap_KJI()
    assert all(np.array_equal(mask, labelmap[index]) for index, mask in shown.items())
    assert sorted(shown) == [report.index for report in result.slices]
    distances = [abs(index - 6) for index in shown]
    assert max(np.diff(distances), default=0) <= 1  # from the middle outwards
    assert distances[0] == 0


def test_batches_are_no_larger_than_asked_for_and_take_half_a_second_at_most() -> None:
    cost = SliceCost()
    assert cost.batch_size(8) == 1  # nothing is known yet
    cost.encoded(4, 0.04)
    assert cost.batch_size(8) == 8
    cost.encoded(1, 0.01)
    cost.encoded(1, 0.19)  # 0.1 s a slice on average
    assert cost.batch_size(8) == 5
    cost.encoded(1, 5.0)
    assert cost.batch_size(8) == 1


def test_the_first_slice_which_sets_a_library_up_counts_only_until_there_is_a_second() -> None:
    cost = SliceCost()
    cost.encoded(1, 20.0)
    cost.decoded(3.0)
    assert cost.seconds_for(encoded=2, decoded=2) == 46.0
    cost.encoded(1, 0.5)
    cost.decoded(0.1)
    assert cost.seconds_for(encoded=2, decoded=2) == pytest.approx(1.2)


def test_the_time_left_is_known_once_slices_were_timed() -> None:
    cost = SliceCost()
    assert cost.seconds_for(encoded=0, decoded=0) == 0
    cost.decoded(0.25)
    assert cost.seconds_for(encoded=1, decoded=1) is None
    cost.encoded(2, 2.0)
    assert cost.seconds_for(encoded=3, decoded=4) == 3 * 1.0 + 4 * 0.25


@pytest.mark.parametrize("strategy", ["box", "track"])
def test_batches_encode_every_slice_once(strategy: str) -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    box = OrientedBox.from_ijk((5, 5, 0), (30, 30, 11), volume.geometry)
    predictor = ThresholdPredictor()
    VolumeSegmenter(predictor, batch_size=4).segment(volume, box, axis=2, strategy=strategy)
    sizes = [len(batch) for batch in predictor.encoded]
    assert sum(sizes) == 12
    assert max(sizes) <= 4


def test_prefetched_slices_need_no_encoder_later() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    box = OrientedBox.from_ijk((7, 7, 2), (23, 23, 9), volume.geometry)
    predictor = ThresholdPredictor()
    engine = segmenter(predictor)
    assert engine.prefetch(volume, box, axis=2, slice_indices=[5, 6]) == 2
    assert engine.prefetch(volume, box, axis=2) == 6
    assert engine.prefetch(volume, box, axis=2) == 0
    assert engine.segment(volume, box, axis=2, strategy="box").cache_hits == 8
    assert predictor.encoded_slices == 8


def test_looking_ahead_skips_slices_that_are_there_already() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    box = OrientedBox.from_ijk((7, 7, 0), (23, 23, 11), volume.geometry)
    predictor = ThresholdPredictor()
    engine = segmenter(predictor)
    engine.prefetch(volume, box, axis=2, slice_indices=[2, 4, 8, 10])
    result = engine.segment(volume, box, axis=2, strategy="track")
    assert result.cache_hits == 4
    assert predictor.encoded_slices == 12


def test_whole_slices_can_be_prefetched_before_anything_is_drawn() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    engine = segmenter(ThresholdPredictor("slice"))
    assert engine.prefetch(volume, axis=2) == 12
    box = OrientedBox.from_ijk((7, 7, 2), (23, 23, 9), volume.geometry)
    assert engine.segment(volume, box, axis=2).cache_hits == 8


def test_prefetching_stops_when_the_cache_is_full_and_pushes_out_nothing_of_its_own() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    predictor = ThresholdPredictor("slice")
    engine = segmenter(predictor, EmbeddingCache(5 * 128 * 128 * 3 * 4))
    assert engine.prefetch(volume, axis=2) == 5
    assert engine.prefetch(volume, axis=2) == 0
    box = OrientedBox.from_ijk((7, 7, 4), (23, 23, 8), volume.geometry)
    assert engine.segment(volume, box, axis=2).cache_hits == 5  # the middle slices are there


def test_threads_may_share_a_segmenter() -> None:
    volume = pear_volume(centred_grid(np.eye(3), (1, 1, 2.5), (50, 46, 18)))
    boxes = [rotated_box(np.eye(3), (18.0 - n, 16.0 - n, 16.0)) for n in range(4)]
    engine = segmenter()
    together: dict[int, VolumeSegmentation] = {}

    def work(number: int) -> None:
        together[number] = engine.segment(volume, boxes[number], strategy="box")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, box in enumerate(boxes):
        assert_is_the_pear_in_the_box(together[number], box)
