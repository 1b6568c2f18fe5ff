"""Limits of the machine, probed in the same run as the benchmark."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from fledge.bench.processes import module, run
from fledge.bench.reporter import Reporter
from fledge.core.errors import FledgeError

PROBE_DEADLINE_S = 60.0
CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's
# Values of ONEDNN_MAX_CPU_ISA that disable bf16; torch and OpenVINO use oneDNN.
WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


@dataclass
class MachineLimits:
    """Memory bandwidth in bytes/s (null if not measured), and operations/s of a matrix product by dtype."""

    bytes_per_s: float | None = None
    flops_per_s: dict[str, float] = field(default_factory=dict)

    def tokens_per_s(self, load: int, weight_bytes: int, parameters: int, *, int8: bool) -> float | None:
        """Return the upper bound for `load` concurrent sequences, None if unknown.

        A step takes at least the time to read all weights, or for two operations per weight and sequence. Only int8
        weights may use a dtype smaller than fp32.
        """
        flops = max(self.flops_per_s.values(), default=None) if int8 else self.flops_per_s.get("float32")
        if self.bytes_per_s is None or flops is None:
            return None
        return load / max(weight_bytes / self.bytes_per_s, load * 2 * parameters / flops)


def has_bf16(cpuinfo: str, onednn_max_cpu_isa: str = "") -> bool:
    """Return whether a CPU multiplies bf16 matrices in hardware; in software one product takes seconds.

    `cpuinfo` is the content of /proc/cpuinfo on x86 or ARM.
    """
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    hidden = onednn_max_cpu_isa.upper() in WITHOUT_BF16
    return flags is not None and not hidden and not BF16_FLAGS.isdisjoint(flags[1].split())


def probe_machine(device: str, reporter: Reporter, notes: list[str]) -> MachineLimits:
    """Measure the limits, each in a process with a deadline; failures are added to `notes`."""
    limits = MachineLimits()
    for what in ("memory", "float32", "bfloat16"):
        if what == "bfloat16" and device == "cpu" and not _cpu_has_bf16():
            notes.append("bfloat16 is not measured: this CPU does not support it")
            continue
        reporter.say(f"probing the limits of this machine: {what}")
        try:
            (line,) = run(module("_hf_peer", "probe", {"device": device, "what": what}), PROBE_DEADLINE_S).lines
        except FledgeError as error:
            notes.append(f"{what} could not be probed: {error.message}")
            continue
        if what == "memory":
            limits.bytes_per_s = line["per_s"]
        else:
            limits.flops_per_s[what] = line["per_s"]
    return limits


def _cpu_has_bf16() -> bool:
    cpuinfo = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    return has_bf16(cpuinfo, os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
