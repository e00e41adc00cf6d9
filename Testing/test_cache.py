from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import pytest

from dbsam.inference.embedding_cache import EmbeddingCache, EmbeddingKey
from dbsam.preprocess.sampling import Region


@dataclass(frozen=True)
class Block:
    region: Region
    nbytes: int


def key_of(index: int = 0, left: float = 0.0) -> EmbeddingKey:
    return EmbeddingKey("image", 2, index, "0:255", "repeat", "model", Region(left, 0, left + 10, 10))


def block(key: EmbeddingKey, nbytes: int) -> Block:
    assert key.region is not None
    return Block(key.region, nbytes)


def never(region: Region) -> bool:
    return False


def test_an_embedding_is_found_by_all_that_it_depends_on() -> None:
    cache = EmbeddingCache(100)
    cache.put(key_of(), block(key_of(), 10))
    assert cache.find(key_of(), never) is not None
    changes = {"image": "x", "axis": 0, "slice": 1, "intensity": "x", "channels": "neighbours", "model": "x"}
    for name, value in changes.items():
        assert cache.find(replace(key_of(), **{name: value}), lambda region: True) is None, name
    assert (cache.hits, cache.misses) == (1, 6)


def test_another_region_of_the_slice_is_found_if_it_serves() -> None:
    cache = EmbeddingCache(100)
    for left in (0.0, 5.0):
        cache.put(key_of(left=left), block(key_of(left=left), 10))
    assert cache.find(key_of(left=7), never) is None
    found = cache.find(key_of(left=7), lambda region: region.x0 <= 5)
    assert found is not None
    assert found.region.x0 == 5  # the newer one


def test_the_limit_is_never_exceeded_and_the_least_recently_used_gives_way() -> None:
    cache = EmbeddingCache(30)
    for index in range(3):
        cache.put(key_of(index), block(key_of(index), 10))
    cache.find(key_of(0), never)
    cache.put(key_of(3), block(key_of(3), 15))
    assert [index for index in range(4) if cache.holds(key_of(index), never)] == [0, 3]
    assert cache.nbytes == 25


def test_an_embedding_larger_than_the_limit_is_not_kept_and_frees_nothing() -> None:
    cache = EmbeddingCache(30)
    cache.put(key_of(0), block(key_of(0), 30))
    cache.put(key_of(1), block(key_of(1), 31))
    assert cache.holds(key_of(0), never)
    assert not cache.holds(key_of(1), never)


def test_replacing_an_embedding_counts_its_memory_once() -> None:
    cache = EmbeddingCache(30)
    cache.put(key_of(), block(key_of(), 10))
    cache.put(key_of(), block(key_of(), 20))
    assert (len(cache), cache.nbytes) == (1, 20)


def test_clearing_frees_all() -> None:
    cache = EmbeddingCache(30)
    cache.put(key_of(), block(key_of(), 10))
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    assert cache.find(key_of(), lambda region: True) is None


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        EmbeddingCache(-1)


def test_threads_share_a_cache_without_losing_count() -> None:
    cache = EmbeddingCache(50)

    def work(first: int) -> None:
        for step in range(300):
            key = key_of((first + step) % 7)
            if cache.find(key, never) is None:
                cache.put(key, block(key, 10 + step % 3))
            assert cache.nbytes <= 50

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.hits + cache.misses == 4 * 300
    kept = [found for index in range(7) if (found := cache.find(key_of(index), never)) is not None]
    assert cache.nbytes == sum(found.nbytes for found in kept)
