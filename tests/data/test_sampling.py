"""Order: permutations, shards, and no memory of what was asked before."""

from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.data.sampling import BatchSampler, batch_at, steps_per_pass

SEEDS = st.integers(0, 2**32)


@st.composite
def sizes(draw) -> tuple[int, int]:
    """Images and batch size, from one image a batch to all."""
    images = draw(st.integers(1, 60))
    return images, draw(st.integers(1, images))


@settings(max_examples=50, deadline=None)
@given(sizes(), SEEDS, st.integers(0, 3))
def test_a_pass_meets_no_image_twice_and_drops_less_than_a_batch(size, seed, pass_):
    images, batch_size = size
    steps = steps_per_pass(images, batch_size)
    batches = [batch_at(pass_ * steps + place, images, batch_size, seed) for place in range(steps)]
    assert all(len(batch) == batch_size for batch in batches)
    pairs = [pair for batch in batches for pair in batch]
    assert {p for p, _ in pairs} == {pass_}
    indices = [index for _, index in pairs]
    assert len(set(indices)) == len(indices) and set(indices) <= set(range(images))
    assert images - len(indices) < batch_size


@settings(max_examples=25, deadline=None)
@given(sizes(), SEEDS, st.permutations(range(12)))
def test_a_batch_does_not_depend_on_what_was_asked_before(size, seed, order):
    in_order = [batch_at(step, *size, seed) for step in range(12)]
    shuffled = {step: batch_at(step, *size, seed) for step in order}
    assert [shuffled[step] for step in range(12)] == in_order


@settings(max_examples=25, deadline=None)
@given(sizes(), SEEDS, st.integers(1, 5))
def test_ranks_share_out_each_batch(size, seed, world):
    samplers = [BatchSampler(*size, seed, rank, world) for rank in range(world)]
    for sampler in samplers:
        sampler.start, sampler.stop = 2, 7
        assert len(sampler) == 5
    for step, shares in enumerate(zip(*samplers, strict=True), start=2):
        joined = [pair for share in shares for pair in share]
        assert sorted(joined) == sorted(batch_at(step, *size, seed))


def test_passes_and_seeds_differ():
    def order(pass_, seed):
        return tuple(index for _, index in batch_at(pass_, 30, 30, seed))

    assert len({order(pass_, seed) for pass_ in range(4) for seed in range(4)}) == 16


def test_a_leftover_is_dropped():
    assert [steps_per_pass(n, 4) for n in (4, 7, 8, 11)] == [1, 1, 2, 2]
    assert [pass_ for step in range(4) for pass_, _ in batch_at(step, 7, 4, seed=0)] == (
        [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    )
