import pytest

from fledge.bench.limits import MachineLimits, has_bf16

ZEN_3 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse4_2 avx avx2 fma f16c\nbugs\t\t: none\n"
ZEN_4 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512_bf16 avx512_vnni\n"
SAPPHIRE = "flags\t\t: fpu avx2 avx512f amx_bf16 amx_tile amx_int8\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16 dgh\n"


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [(ZEN_3, False), (ZEN_4, True), (SAPPHIRE, True), (GRAVITON_2, False), (GRAVITON_3, True), ("", False)],
)
def test_bf16_is_read_from_the_cpu_flags(cpuinfo: str, found: bool) -> None:
    assert has_bf16(cpuinfo) is found


@pytest.mark.parametrize(
    ("cap", "found"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("ALL", True), ("", True)]
)
def test_bf16_can_be_disabled_in_onednn(cap: str, found: bool) -> None:
    assert has_bf16(ZEN_4, cap) is found


def test_the_limit_is_set_by_memory_or_by_compute() -> None:
    limits = MachineLimits(bytes_per_s=1000.0, flops_per_s={"float32": 2000.0, "bfloat16": 8000.0})
    # Reading 400 bytes takes 0.4 s; one sequence needs 200 operations, 0.1 s; 16 of them 1.6 s, in bf16 0.4 s.
    assert limits.tokens_per_s(1, 400, 100, int8=False) == pytest.approx(2.5)
    assert limits.tokens_per_s(16, 400, 100, int8=False) == pytest.approx(10)
    assert limits.tokens_per_s(16, 400, 100, int8=True) == pytest.approx(40)


def test_there_is_no_limit_without_its_probe() -> None:
    assert MachineLimits(None, {"float32": 1.0}).tokens_per_s(1, 400, 100, int8=True) is None
    assert MachineLimits(1000.0, {"bfloat16": 1.0}).tokens_per_s(1, 400, 100, int8=False) is None
    assert MachineLimits(1000.0, {"bfloat16": 200.0}).tokens_per_s(1, 400, 100, int8=True) == pytest.approx(1)
