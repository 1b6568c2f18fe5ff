"""What the machine can do at best, probed in the same run as what is measured."""

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
# What ONEDNN_MAX_CPU_ISA may say that leaves no bf16 to the CPU; torch and OpenVINO compute with oneDNN.
WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


@dataclass
class MachineLimits:
    """Bytes a second that memory gives (null where that could not be measured), and operations a second of a matrix
    product by type."""

    bytes_per_s: float | None = None
    flops_per_s: dict[str, float] = field(default_factory=dict)

    def tokens_per_s(self, load: int, weight_bytes: int, parameters: int, *, int8: bool) -> float | None:
        """The most that `load` sequences at once can have: a step takes at least the longer of reading all weights and
        two operations for each weight and sequence. Only int8 weights may be computed with in less than fp32."""
        flops = max(self.flops_per_s.values(), default=None) if int8 else self.flops_per_s.get("float32")
        if self.bytes_per_s is None or flops is None:
            return None
        return load / max(weight_bytes / self.bytes_per_s, load * 2 * parameters / flops)


def has_bf16(cpuinfo: str, onednn_max_cpu_isa: str = "") -> bool:
    """Whether a CPU multiplies bf16 matrices in hardware: in software a single product takes seconds.

    `cpuinfo` is the text of /proc/cpuinfo, of x86 or ARM.
    """
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    hidden = onednn_max_cpu_isa.upper() in WITHOUT_BF16
    return flags is not None and not hidden and not BF16_FLAGS.isdisjoint(flags[1].split())


def probe_machine(device: str, reporter: Reporter, notes: list[str]) -> MachineLimits:
    """Measure the limits, each in a process that is killed if it takes too long; `notes` gets what could not be."""
    limits = MachineLimits()
    for what in ("memory", "float32", "bfloat16"):
        if what == "bfloat16" and device == "cpu" and not _bf16_here():
            notes.append("bfloat16 is not measured: this CPU has none")
            continue
        reporter.say(f"probing what this machine can do at best: {what}")
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


def _bf16_here() -> bool:
    cpuinfo = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    return has_bf16(cpuinfo, os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
