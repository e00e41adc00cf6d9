"""Prompts and augmentation of training samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_cases import grey_and_colour_store, tiny_recipe, tiny_store

from dbsam_training.batches.augment import make_batch
from dbsam_training.batches.boxes import draw_boxes
from dbsam_training.batches.loader import BatchDataset, reader
from dbsam_training.batches.rng import COUNT, Draws
from dbsam_training.batches.synthetic import Shapes
from dbsam_training.recipe import AugmentOptions, PromptOptions
from dbsam_training.schema import SettingError
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.gpu import GpuStore

STRONG = AugmentOptions(geometric=1, intensity=1, invert=0.5, repeat_channel=0.5, elastic=1, insert=0.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return TrainingStore(grey_and_colour_store(tmp_path_factory.mktemp("data")))


def table(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((count, COUNT), np.float32))


def batch_of(store, indices, rows, augment, prompts=None, mask_size=64):
    arrays = reader(store, None)(torch.tensor(indices))
    return make_batch(arrays, 64, mask_size, rows, prompts or tiny_recipe().prompts, augment)


def test_a_sample_does_not_depend_on_the_others_of_its_batch(store):
    rows = table(8)
    together = batch_of(store, range(8), rows, STRONG)
    for n in (0, 5):
        alone = batch_of(store, [n], rows[n : n + 1], STRONG)
        for name in ("images", "valid", "boxes_xyxy", "masks", "mask_valid"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[n], rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("augment", [AugmentOptions(), STRONG], ids=["plain", "strong"])
def test_a_batch_holds_finite_pixels_whole_masks_and_boxes_that_reach_them(store, augment):
    prompts = PromptOptions(paper=1.0, whole_slice=False)
    batch = batch_of(store, range(8), table(8), augment, prompts)
    assert batch.images.shape == (8, 3, 64, 64)
    assert bool(batch.images.isfinite().all())
    assert batch.images.min() >= 0
    assert batch.images.max() <= 255
    assert set(batch.masks.unique().tolist()) == {0.0, 1.0}
    for mask, box in zip(batch.masks, batch.boxes_xyxy, strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert box[0] <= columns[0] + 3
        assert box[1] <= rows[0] + 3
        assert box[2] >= columns[-1] - 3
        assert box[3] >= rows[-1] - 3


def test_without_augmentation_the_mask_lies_on_the_bright_disc(store):
    batch = batch_of(store, range(4), table(4), AugmentOptions())
    for image, mask in zip(batch.images, batch.masks, strict=True):
        inside, outside = image[0][mask > 0].mean(), image[0][mask == 0].mean()
        assert inside - outside > 90


def test_masks_of_another_size_show_the_same_place(store):
    rows = table(4)
    fine, coarse = (batch_of(store, range(4), rows, STRONG, mask_size=size).masks for size in (64, 32))
    averaged = torch.nn.functional.avg_pool2d(fine[:, None], 2)[:, 0]
    assert (averaged - coarse).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("shares", "least", "most"),
    [
        ({"paper": 1.0}, 0.0, 40.0),  # 20 pixels of 2 units
        ({"paper": 0.0, "loose": 0.0, "cut": 1.0}, -2.0, 0.0),  # 5 % of 40
        ({"paper": 0.0, "loose": 0.0}, 0.0, 9.0),  # 15 % of 40 and 1.5 pixels
        ({"paper": 0.0, "loose": 1.0}, 0.0, 24.0),  # 60 % of 40: the object is its own whole
    ],
    ids=["paper", "cut", "tight", "loose"],
)
def test_boxes_lie_as_far_outside_the_object_as_their_kind_says(shares, least, most):
    corners = torch.tensor([[0.0, 0], [40, 0], [0, 40], [40, 40]]).expand(500, 4, 2)
    prompts = PromptOptions(**{"paper": 0.0, **shares}, whole_slice=False)
    boxes = draw_boxes(corners, corners, torch.full((500,), 2.0), Draws(table(500)), prompts)
    distances = (boxes - torch.tensor([0.0, 0, 40, 40])) * torch.tensor([-1.0, -1, 1, 1])
    assert distances.min() >= least - 1e-4
    assert distances.max() <= most + 1e-4
    assert distances.max() - distances.min() > 0.9 * (most - least)


def test_where_the_object_has_ended_boxes_come_from_the_whole_object():
    hull = torch.full((200, 4, 2), float("nan"))
    whole = torch.tensor([[0.0, 0], [40, 0], [0, 40], [40, 40]]).expand(200, 4, 2)
    boxes = draw_boxes(hull, whole, torch.ones(200), Draws(table(200)), PromptOptions(whole_slice=False))
    assert bool(boxes.isfinite().all())
    sides = boxes[:, 2] - boxes[:, 0]
    assert sides.max() <= 52
    assert sides.min() >= 16
    assert sides.min() < 30


def test_a_shapes_points_lie_on_its_outline_and_its_middle_inside():
    shapes = Shapes.draw(Draws(table(50)))
    on_outline = shapes.depth(shapes.hull()[:, None]).abs() / shapes.radius.view(-1, 1, 1)
    assert on_outline.max() < 1e-3
    assert bool((shapes.depth(shapes.centre[:, None, None]) > 0).all())


def test_a_share_of_shapes_are_rectangles_that_fill_their_box():
    shapes = Shapes.draw(Draws(table(200)))
    places = torch.stack(torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="xy"), -1).expand(
        200, -1, -1, -1
    )
    inside = shapes.depth(places) > 0
    rows, columns = inside.any(2).sum(1), inside.any(1).sum(1)
    fills = inside.sum((1, 2)) > 0.95 * rows * columns
    assert 0.1 < float(shapes.square.float().mean()) < 0.5
    assert bool(fills[shapes.square].float().mean() > 0.5)
    assert not bool(fills[~shapes.square].any())


def test_inserted_shapes_replace_the_object(store):
    every, none = replace(AugmentOptions(), insert=1.0), AugmentOptions()
    rows = table(8)
    changed, plain = (batch_of(store, range(8), rows, augment) for augment in (every, none))
    assert bool((changed.masks.flatten(1).sum(1) > 0).all())
    assert not torch.equal(changed.masks, plain.masks)


def test_recoloured_objects_keep_their_outline_and_get_another_brightness(store):
    rows = table(8)
    plain = batch_of(store, range(8), rows, AugmentOptions())
    changed = batch_of(store, range(8), rows, replace(AugmentOptions(), recolour=1.0))
    torch.testing.assert_close(changed.masks, plain.masks)
    inside, outside = plain.masks[:, None], (1 - plain.masks)[:, None] * plain.valid

    def spread(images, where):
        mean = (images * where).sum((1, 2, 3)) / (3 * where.sum((1, 2, 3)))
        squares = ((images - mean.view(-1, 1, 1, 1)).square() * where).sum((1, 2, 3))
        return mean, (squares / (3 * where.sum((1, 2, 3)))).sqrt()

    before, after = spread(plain.images, inside)[0], spread(changed.images, inside)[0]
    assert bool(((after - before).abs() > 1).all())
    kept = spread(changed.images, outside)[1] / spread(plain.images, outside)[1]
    # Half of the backgrounds keep their contrast, but for the soft edge of what was painted; others lose it.
    assert 0 < int((kept < 0.75).sum()) < 8


def test_a_store_on_a_gpu_returns_what_the_disk_holds(store):
    indices = torch.tensor([7, 0, 3, 9, 3])
    on_device, disk = GpuStore(store, torch.device("cpu")).batch(indices), reader(store, None)(indices)
    assert on_device.keys() == disk.keys()
    for name, values in disk.items():
        torch.testing.assert_close(on_device[name], values, equal_nan=True, rtol=0, atol=0)


def test_a_store_on_a_gpu_of_grey_images_alone(tmp_path):
    grey = TrainingStore(tiny_store(tmp_path, tiny_recipe()))
    on_device = GpuStore(grey, torch.device("cpu")).batch(torch.tensor([1]))
    np.testing.assert_array_equal(on_device["images"], grey.batch(np.array([1]))["images"])


def test_batches_from_a_device_equal_those_of_the_disk(store):
    recipe = tiny_recipe(run__store_on_gpu=True)
    on_device = BatchDataset(store.folders, recipe, 0, 1, torch.device("cpu"))[4, 0]
    disk = BatchDataset(store.folders, recipe, 0, 1)[4, 0]
    torch.testing.assert_close(on_device.images, disk.images)
    torch.testing.assert_close(on_device.boxes_xyxy, disk.boxes_xyxy)


def test_samples_on_a_gpu_leave_nothing_for_worker_processes():
    with pytest.raises(SettingError, match=r"run\.workers must be 0 with run\.store_on_gpu, not 2"):
        tiny_recipe(run__store_on_gpu=True, run__workers=2)


def test_every_part_of_a_batch_holds_samples_of_every_data_set(store):
    recipe = tiny_recipe(run__batch_size=32, run__gradient_accumulation_steps=2)
    shares = [BatchDataset(store.folders, recipe, rank, 2).choose(7, part) for rank in (0, 1) for part in (0, 1)]
    assert [set(store.dataset[positions].tolist()) for positions, _ in shares] == [{0, 1}] * 4
    whole = BatchDataset(store.folders, tiny_recipe(run__batch_size=32), 0, 1).choose(7)
    for n, values in enumerate(whole):
        parts = torch.cat([share[n] for share in shares]).double()
        torch.testing.assert_close(parts.flatten().sort().values, values.double().flatten().sort().values)
