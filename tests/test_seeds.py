"""derive: the only source of seeds."""

from hypothesis import given, strategies as st

from torchtune_hp.seeds import derive

parts = st.lists(st.integers() | st.text(), max_size=4)


@given(st.integers(), parts)
def test_a_seed_is_a_function_of_its_path_and_fits_63_bits(seed: int, path: list[int | str]) -> None:
    assert derive(seed, *path) == derive(seed, *path)
    assert 0 <= derive(seed, *path) < 2**63


def test_paths_are_told_apart_by_value_type_and_place() -> None:
    seeds = [derive(0), derive(1), derive(0, 1), derive(0, "1"), derive(0, 1, 1), derive(0, "a", "b"), derive(0, "ab"), derive(0, "b", "a")]
    assert len(set(seeds)) == len(seeds)


def test_seeds_stay_what_they_were_when_studies_were_written() -> None:
    assert derive(0, "trial", 7) == 2958400391628505850
    assert derive(12, "searcher") == 1493171729275025361


def test_the_high_bit_is_used() -> None:
    seeds = [derive(0, i) for i in range(64)]
    assert max(seeds) > 2**62 and any(seed % 2 for seed in seeds)
