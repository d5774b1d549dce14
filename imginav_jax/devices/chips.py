"""What XLA must know of a card to compile for it where there is none; `imginav_jax.devices.cards.CHIPS` names them."""

import dataclasses
import logging
import shlex
from typing import Any

import jax
from jax.experimental import topologies

from imginav_jax.devices import cards
from imginav_jax.system import versions
from imginav_jax.system.errors import UserError

# XLA's compiler for NVIDIA cards, of JAX's own version, and the assembler that it calls: CUDA 13's knows no V100.
_PLUGIN, _ASSEMBLER = "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12"

# A textproto of XLA's GpuTargetConfigProto.  The memory is far more than any card has: near a card's own, XLA computes
# values twice to stay below it, and its estimate is then not what the program would like to have.
_DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}
  core_count: {multiprocessors}
  fpus_per_core: {fpus}
  threads_per_core_limit: {threads}
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory_of_block}
  l2_cache_size: {l2_cache}
  clock_rate_ghz: {clock_ghz}
  memory_bandwidth: {bandwidth}
  device_memory_size: 1099511627776
  shared_memory_per_block: 49152
  threads_per_block_limit: 1024
  threads_per_warp: 32
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 2 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Chip:
    """The numbers that CUDA reports of a card, memory in bytes, and the rates of its data sheet, a second."""

    capability: tuple[int, int]
    multiprocessors: int
    fpus: int  # of a multiprocessor, as are the next two
    threads: int
    shared_memory: int
    shared_memory_of_block: int  # at most
    l2_cache: int
    clock_ghz: float
    bandwidth: int  # of the card's memory
    half_flops: float  # of dense matrix products in 16 bits
    single_flops: float  # in float32, not TF32

    def flops(self, precision: str) -> float:
        """Returns the operations a second that a large matrix product can reach in `precision`."""
        return self.single_flops if precision == "float32" else self.half_flops


# Rates: NVIDIA's data sheets of the V100 (SXM2), L40S, A100 (SXM, 80 GB) and H100 (SXM), dense.
CHIPS = {
    "V100": Chip((7, 0), 80, 64, 2048, 98_304, 98_304, 6_291_456, 1.53, 898_048_000_000, 125e12, 15.7e12),
    "L40S": Chip((8, 9), 142, 128, 1536, 102_400, 101_376, 100_663_296, 2.52, 864_096_000_000, 362e12, 91.6e12),
    "A100": Chip((8, 0), 108, 64, 2048, 167_936, 166_912, 41_943_040, 1.41, 2_039_000_000_000, 312e12, 19.5e12),
    "H100": Chip((9, 0), 132, 128, 2048, 233_472, 232_448, 52_428_800, 1.98, 3_352_320_000_000, 989e12, 66.9e12),
}


def device(name: str) -> Any:
    """Returns a device of JAX that programs are compiled for and never run on; `name` is one of CHIPS.

    `cards.prepare_to_compile` must have been called before JAX was imported.

    Raises:
      UserError: what compiles for cards is missing, or of another version than JAX.
    """
    check_installed()
    logging.getLogger("jax_plugins.xla_cuda12").setLevel(logging.ERROR)  # it warns of what only a run would need
    description = _DESCRIPTION.format(name=name, **dataclasses.asdict(CHIPS[name]))
    return topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=description).devices[0]


def check_installed() -> None:
    """Raises UserError, with the command that mends it, where nothing compiles for cards."""
    plugin, assembler = versions.version(_PLUGIN), versions.version(_ASSEMBLER)
    if plugin == jax.__version__ and assembler:
        return
    there = f"{_PLUGIN} is {plugin or 'missing'}, {_ASSEMBLER} is {assembler or 'missing'}"
    target = shlex.quote(str(cards.compiler_folder()))
    raise UserError(
        f"JAX {jax.__version__} cannot compile for a card here: {there}; "
        f"pip install --no-deps --target {target} {_PLUGIN}=={jax.__version__} {_ASSEMBLER}"
    )
