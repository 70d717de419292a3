"""Times in turn: order, ratios, the CPU's name."""

from __future__ import annotations

from benchmarks import timing
from benchmarks.timing import cpu, interleaved, ratio


def test_contenders_take_turns():
    calls: list[str] = []
    seconds = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 3, warmup=1)
    assert "".join(calls) == "ab" + "ab" * 3
    assert {name: len(one) for name, one in seconds.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for one in seconds.values() for value in one)


def test_a_ratio_is_the_median_of_pairs():
    assert ratio([2.0, 2.0, 6.0], [1.0, 1.0, 2.0]) == 2.0
    # a slow moment that meets both is none of the ratio
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0


def test_the_cpu_is_named_with_its_instruction_sets(monkeypatch, tmp_path):
    facts = tmp_path / "cpuinfo"
    facts.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\n")
    monkeypatch.setattr(timing, "CPUINFO", facts)
    assert cpu() == "Some CPU (avx2, avx512f, avx512_vnni)"
    monkeypatch.setattr(timing, "CPUINFO", tmp_path / "none")
    assert cpu()
