"""Phase 1.2, the spatial resolution test: one autoencoder with 3, 4 and 5 downsampling steps.

    python -m imginav_jax.main --config=configs/phase1_2.py:R1 --config.data.manifest=/path/to/layouts.csv

The argument is an experiment, and after commas what is to be changed in it:

    R1   3 steps, 64x64x16 latent at 512x512,  8x compression,    786,143 parameters
    R2   4 steps, 32x32x16 latent,            16x compression,  3,119,455 parameters
    R3   5 steps, 16x16x16 latent,            32x compression, 12,406,367 parameters

    V1   3 steps, 64x64x4 latent: with V2 (32x32x16, which is R2) and V3 (16x16x64) the matched-volume arm, whose
    V2   latents all have 16,384 values; R1, R2 and R3 differ in that number as well as in the resolution
    V3

    R1,quick      the same model on 128x128 synthetic layouts, small enough for two CPU cores; ends with a validation
                  PSNR of 22.3 dB (R2,quick 20.4 dB, R3,quick 17.6 dB)
    R1,seed=7     another seed of the initial weights and the shuffle, under a name of its own; the split stays the same
    R1,shortcuts  with shortcuts around the stages, which have no parameters: not the original's experiment, but another
                  one, under a name of its own

They go together, in any order: R3,shortcuts,quick,seed=7.

What the original reached with 10 epochs and one seed, validation MSE: R1 0.000838, R2 0.001101, R3 0.002469.

Any field below is overridden on the command line: --config.batch_size=8, --config.model.base_channels=64.
"""

from typing import Any

from ml_collections import config_dict

# Phase 1.1's winner.
LATENT_CHANNELS = 16
BASE_CHANNELS = 32

# Downsampling steps and latent channels.
EXPERIMENTS = {
    "R1": (3, LATENT_CHANNELS),
    "R2": (4, LATENT_CHANNELS),
    "R3": (5, LATENT_CHANNELS),
    "V1": (3, LATENT_CHANNELS // 4),
    "V2": (4, LATENT_CHANNELS),
    "V3": (5, LATENT_CHANNELS * 4),
}


def get_config(argument: str = "R1") -> Any:
    """The config of "R1", "R1,quick", "R1,shortcuts,seed=7" and so on; ValueError says what there is."""
    experiment, *changes = argument.split(",")
    if experiment not in EXPERIMENTS:
        raise ValueError(f'unknown experiment "{experiment}"; valid ones are {", ".join(EXPERIMENTS)}')
    config = _full(experiment)
    for change in sorted({*changes}, key=lambda change: (change != "shortcuts", change)):  # the same name in any order
        key, _, value = change.partition("=")
        if change == "shortcuts":
            config.model.shortcuts = True
            config.experiment += " shortcuts"
            config.name += "_shortcuts"
        elif change == "quick":
            _make_quick(config)
        elif key == "seed" and value.isdecimal():
            config.seed = int(value)
            config.name += f"_seed{config.seed}"
        elif change != "full":
            raise ValueError(f'unknown preset "{change}"; valid ones are full, quick, seed=NUMBER, shortcuts')
    return config


def _full(experiment: str) -> Any:
    steps, latent_channels = EXPERIMENTS[experiment]
    config: Any = config_dict.ConfigDict()
    config.experiment = experiment  # what the report calls it; runs of one experiment differ in the seed alone
    config.name = f"phase1_2_AE_{experiment}_ds{{downsampling_steps}}"  # of every output; {...} is a field of model
    config.phase_dir = "outputs/phase1_2_spatial_resolution"  # copies for the comparison of the runs
    config.seed = 42  # of the initial weights and the shuffle; below 2**32
    config.batch_size = 16  # images a step, over all devices together
    config.accumulate_steps = 1  # parts of the batch that a step takes in turn; less memory, the same result
    config.num_epochs = 10  # 0: only evaluate the weights of init_from
    config.init_from = config_dict.placeholder(str)  # weights to start from: a workdir or an imported checkpoint
    config.init_step = config_dict.placeholder(int)  # of its checkpoint; none: the best
    config.init_sha256 = config_dict.placeholder(str)  # that its weights must have; none: any
    config.init_log_variance = config_dict.placeholder(float)  # of a variational model from deterministic weights
    config.precision = "float32"  # of the convolutions: float32, bfloat16 or float16; parameters are always float32
    config.num_devices = 0  # to train on; 0: all there are
    config.loggers = "tensorboard"  # and, after commas, MODULE:FUNCTION, which opens a writer of one's own
    config.profile_steps = ""  # first and last step of a trace for TensorBoard, as "10:15"; empty: none
    config.ema_decay = 0.0  # of the weights' moving average, which is then evaluated and taken from the run; 0: none

    config.model = config_dict.ConfigDict()
    config.model.latent_channels = latent_channels
    config.model.base_channels = BASE_CHANNELS  # of the first stage, doubled by each step; a multiple of 16
    config.model.downsampling_steps = steps  # 1 to 7; each halves height and width
    config.model.shortcuts = False  # parameter-free, around each stage: pixels become channels, and channels pixels
    config.model.variational = False  # a mean and a log-variance of each latent value; wants a loss.kl
    config.model.remat = False  # recompute activations in the backward pass: less memory, more time

    config.data = config_dict.ConfigDict()
    config.data.manifest = config_dict.placeholder(str)  # path of layouts.csv; none: synthetic layouts
    config.data.root = config_dict.placeholder(str)  # folder no layout path may leave; none: the manifest's, unbounded
    config.data.image_size = 512  # pixels, height and width; must divide by 2**downsampling_steps
    config.data.synthetic_size = 1024  # synthetic layouts to draw where there is no manifest
    config.data.validation_fraction = 0.2  # of the layouts, in (0, 1)
    config.data.seed = 42  # of the split and the synthetic layouts; keep it to compare runs
    config.data.cache_dir = "~/.cache/imginav_jax"  # where prepared data sets live
    config.data.num_workers = 0  # processes that decode for training; 0: threads

    config.optimizer = config_dict.ConfigDict()
    config.optimizer.learning_rate = 1e-4  # the highest that the schedule reaches
    config.optimizer.weight_decay = 0.01  # decoupled, on every parameter
    config.optimizer.schedule = "constant"  # or cosine: from there to 0 at the end of num_epochs
    config.optimizer.warmup_steps = 0  # in which the learning rate rises from 0, before the schedule begins
    config.optimizer.clip_norm = 0.0  # largest norm of all gradients together; 0: they are not clipped

    config.loss = config_dict.ConfigDict()  # weights of the terms
    config.loss.mse = 1.0  # RGB, on [-1, 1]
    config.loss.segmentation = 0.05  # cross-entropy, nats
    config.loss.classification = 0.01  # room/scene cross-entropy, nats
    config.loss.kl = 0.0  # KL divergence from N(0, 1), nats, the mean over latent values; of a variational model

    config.early_stopping = config_dict.ConfigDict()
    config.early_stopping.patience = 3  # epochs without improvement before the run stops
    config.early_stopping.min_delta = 1e-4  # what counts as improvement of the validation loss

    config.checkpoint = config_dict.ConfigDict()
    config.checkpoint.every_epochs = 5  # kept for good; every epoch is saved, and the latest and the best are kept
    config.checkpoint.every_minutes = 15.0  # within an epoch; 0: at the end of epochs only

    config.samples = config_dict.ConfigDict()
    config.samples.every_epochs = 5
    config.samples.count = 8  # validation layouts in a sample picture
    return config


def _make_quick(config: Any) -> None:
    config.name += "_quick"
    config.batch_size = 2  # small: few images, but many steps
    config.num_epochs = 4
    config.checkpoint.every_epochs = 2  # one of half the training, by which a report sees how far it got
    config.data.image_size = 128
    config.data.synthetic_size = 300
    config.optimizer.learning_rate = 1e-3
    config.samples.every_epochs = 1
