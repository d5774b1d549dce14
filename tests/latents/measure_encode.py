"""Is `imginav_jax.encode` as fast as its slowest part?  `python tests/measure_encode.py`.

Decodes synthetic 512x512 layouts alone, encodes with R1's encoder alone, and does both by `encode`, several rounds in
one process, the start of the program aside; prints the rates and fails below 90 % of the slower part's.
"""

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax

from imginav_jax.datasets import preparation, synthetic
from imginav_jax.devices import target
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.latents import encoding
from imginav_jax.models import architecture, inference, network
from imginav_jax.runs import weights

LIMIT = 0.9
CONFIG = architecture.AutoencoderConfig(latent_channels=16, base_channels=32, downsampling_steps=3)


class Clock(encoding.Progress):
    """When `encode` fetched each batch: its rate without the start of the program."""

    ticks: ClassVar[list] = []

    def advance(self, count=1, note=""):
        Clock.ticks.append((time.monotonic(), count))
        super().advance(count, note)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layouts", type=int, default=96)
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--images_per_device", type=int, default=encoding.IMAGES_PER_DEVICE)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), arguments)
    for name, values in rates.items():
        print(f"{name:10} {median(values):8.2f} layouts/s  {[round(value, 2) for value in values]}")
    share = median(rates["encode"]) / min(median(rates["decoding"]), median(rates["device"]))
    print(f"encode runs at {share:.1%} of the slower of decoding alone and the device alone")
    sys.exit(share < LIMIT)


def measure(folder, arguments):
    """Layouts a second of each part and of the whole, a round."""
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))  # the rounds compile the same programs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    size = arguments.image_size
    params = jax.jit(functools.partial(network.init, CONFIG))(jax.random.key(0))
    weights.save(folder / "model", CONFIG, params, {})
    places = {"manifest": str(synthetic.write_manifest(folder / "layouts", arguments.layouts, size, 0))}
    places |= {"cache_dir": str(folder / "cache"), "image_size": size}
    options = {"images_per_device": arguments.images_per_device, "dtype": "float16"}

    encoding.Progress = Clock
    encoding.encode(folder / "model", folder / "warm", **places, **options)
    (directory,) = (folder / "cache").glob("*/imginav_layouts/*")
    rates = {"decoding": [], "device": [], "encode": []}
    for number in range(arguments.rounds):
        rates["decoding"].append(time_decoding(directory, arguments))
        rates["device"].append(time_device(params, arguments))
        Clock.ticks = []
        encoding.encode(folder / "model", folder / f"out{number}", **places, **options)
        (start, _), *rest = Clock.ticks
        rates["encode"].append(sum(count for _, count in rest) / (rest[-1][0] - start))
    return rates


def time_decoding(directory, arguments):
    start, sharding = time.monotonic(), jax.numpy.zeros(()).sharding
    for split in (preparation.TRAIN, preparation.VALIDATION):
        dataset = pipeline.eval_dataset(LayoutSource(directory, split), arguments.images_per_device)
        for batch in pipeline.prefetch(dataset, sharding):
            jax.block_until_ready(batch.image)
    return arguments.layouts / (time.monotonic() - start)


def time_device(params, arguments):
    run = jax.jit(functools.partial(inference.encode, config=CONFIG), compiler_options=target.compiler_options())
    shape = (arguments.images_per_device, arguments.image_size, arguments.image_size, 3)
    images = jax.random.randint(jax.random.key(1), shape, 0, 256).astype("uint8")
    jax.block_until_ready(run(params, images))
    start, batches = time.monotonic(), -(-arguments.layouts // arguments.images_per_device)
    for _ in range(batches):
        made = run(params, images)
    jax.block_until_ready(made)
    return batches * arguments.images_per_device / (time.monotonic() - start)


if __name__ == "__main__":
    main()
